"""A call that its client gives up on ends as cancelled; the notification reaches the server."""

import asyncio
import json
from typing import Any

import pytest
from conftest import Activate
from mcp_wire import kept
from proxy.conftest import RawClient, behind

from perdure import Outcome
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import BegunTurn
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings


async def received(client: RawClient) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await client.ask("test/received"))["result"]["lines"]]


async def begun(client: RawClient, id_: Any = "call") -> None:
    client.send("tools/call", {"name": "slow", "arguments": {"prompt": "x"}}, id=id_)
    while not any(message["method"] == "tools/call" for message in await received(client)):
        pass


async def test_a_cancelled_call_ends_its_turn_and_the_server_is_told(all_kept: Runtime) -> None:
    async with behind() as client:
        await begun(client)
        client.send("notifications/cancelled", {"requestId": "call", "reason": "enough", "future": 1})
        late = await client.answer("call")
        [told] = [message for message in await received(client) if message["method"] == "notifications/cancelled"]
    assert told["params"] == {"requestId": "call", "reason": "enough", "future": 1}
    assert late["result"] == {"content": [{"type": "text", "text": "too late"}]}  # the client must ignore it
    [turn] = kept(all_kept)
    assert turn.outcome == Outcome.CANCELLED


async def test_an_id_is_free_again_after_its_call_was_cancelled(all_kept: Runtime) -> None:
    async with behind() as client:
        await begun(client, 7)
        client.send("notifications/cancelled", {"requestId": 7})
        await client.answer(7)
        client.send("tools/call", {"name": "echo", "arguments": {"prompt": "y"}}, id=7)
        answer = await client.answer(7)
    assert answer["result"]["_meta"]["perdure/persisted"] is True
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.CANCELLED, Outcome.ANSWERED]


@pytest.mark.parametrize("id_", [1, "1", 0, -5, 2.5, "", "a b", "\u2028", 2**53 + 1, True, [1], {"a": 1}])
async def test_a_request_may_have_an_id_of_any_type(all_kept: Runtime, id_: Any) -> None:
    async with behind() as client:
        client.send("tools/call", {"name": "echo", "arguments": {"prompt": "x"}}, id=id_)
        answer = await client.answer(id_)
    assert answer["id"] == id_
    assert type(answer["id"]) is type(id_)
    assert answer["result"]["_meta"]["perdure/persisted"] is True


async def test_ids_that_look_alike_are_not_taken_for_each_other(all_kept: Runtime) -> None:
    async with behind() as client:
        for id_ in (1, "1", True):
            client.send("tools/call", {"name": "slow", "arguments": {"prompt": str(id_)}}, id=id_)
        while len([m for m in await received(client) if m["method"] == "tools/call"]) < 3:
            pass
        client.send("notifications/cancelled", {"requestId": "1"})
        assert (await client.answer("1"))["id"] == "1"
    assert [turn.outcome for turn in kept(all_kept)] == [Outcome.CANCELLED] * 3


async def test_a_call_cancelled_before_it_was_passed_on_never_reaches_the_server(activate: Activate) -> None:
    import threading

    let_begin = threading.Event()

    class Slow(MemoryStore):
        blocking = True

        def begin(self, *args: Any, **kwargs: Any) -> BegunTurn:
            let_begin.wait(20)
            return super().begin(*args, **kwargs)

    runtime = activate(Slow(), defaults=ToolSettings(enabled=True))
    async with behind() as client:
        await client.ask("tools/list")
        client.send("tools/call", {"name": "echo", "arguments": {"prompt": "x"}}, id="call")
        await asyncio.sleep(0.05)
        client.send("notifications/cancelled", {"requestId": "call"})
        await client.ask("ping")
        let_begin.set()
        while not kept(runtime) or kept(runtime)[0].outcome is Outcome.RUNNING:
            await asyncio.sleep(0.01)
        methods = [message["method"] for message in await received(client)]
    assert methods == ["tools/list", "ping"]
    assert kept(runtime)[0].outcome == Outcome.CANCELLED


async def test_many_calls_at_once_are_each_answered_and_kept(all_kept: Runtime) -> None:
    async with behind() as client:
        numbers = [client.request("tools/call", {"name": "echo", "arguments": {"prompt": str(n)}}) for n in range(90)]
        seen = {}
        while len(seen) < len(numbers):
            message = json.loads(await client.line())
            seen[message["id"]] = message["result"]["content"][0]["text"]
    assert [seen[number] for number in numbers] == [f"heard {n}" for n in range(90)]
    assert sorted(int(turn.prompt) for turn in kept(all_kept)) == list(range(90))
