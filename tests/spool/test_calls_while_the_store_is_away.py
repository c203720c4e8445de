"""While the store is away a call is answered as ever, its turn is kept on the local disk, its conversation goes on."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Activate
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_wire import announced_id, called, text_of, without_announcement
from spool.conftest import prompts
from spool.test_turns_that_wait import until

from perdure import Outcome, install, persisted
from perdure.errors import StoreMisconfigured, StoreTimeout, TurnRefused
from perdure.middleware.persistence.spool.drainer import Drainer
from perdure.middleware.persistence.sqlite_file.group_writer import GroupWriter
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import Acknowledge, ToolSettings
from perdure.testing import FaultyStore

Json = dict[str, Any]


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore(), blocking=True)


@pytest.fixture
def away(activate: Activate, store: FaultyStore, tmp_path: Path) -> Runtime:
    """A runtime whose store can be told to be away."""
    runtime = activate(store, spooled=True, data_dir=tmp_path / "data", operation_timeout=1.0)
    runtime.breaker._first_pause = runtime.breaker._pause = 0.01
    runtime.breaker._longest_pause = 0.02
    return runtime


@pytest.fixture(params=["async", "sync", "hook"])
def server(request: pytest.FixtureRequest) -> MCPServer:
    mcp = MCPServer("away")

    async def chat(prompt: str) -> str:
        return f"[{prompt}]"

    def chat_sync(prompt: str) -> str:
        return f"[{prompt}]"

    match request.param:
        case "async":
            mcp.tool()(persisted(chat))
        case "sync":
            mcp.tool(name="chat")(persisted(chat_sync))
        case "hook":
            mcp.tool()(chat)
            install(mcp, tools=["chat"])
    return mcp


async def ask(server: MCPServer, prompt: str, conversation: str | None = None) -> Json:
    arguments = {"prompt": prompt} | ({"continuation_id": conversation} if conversation else {})
    return await called(server, "chat", arguments)


def sent(runtime: Runtime) -> bool:
    assert runtime.spool is not None
    runtime.spool.wake()
    return not any(line.turns for line in runtime.spool.status())


async def test_a_turn_is_kept_while_the_store_is_away_and_sent_when_it_is_back(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    store.fail()
    result = await ask(server, "hello")
    assert without_announcement(result)["content"] == [{"type": "text", "text": "[hello]"}]
    meta = result["_meta"]
    assert (meta["perdure/persisted"], meta["perdure/deferred"]) == (True, True)
    assert meta["perdure/fault"] == "store_unavailable"
    assert meta["perdure/history"] == {"state": "new", "turns": 0, "omitted": 0}
    store.heal()
    until(lambda: sent(away), "not sent")
    [turn] = store.inner.turns("local", announced_id(result))
    assert (turn.prompt, turn.outcome, turn.deferred, turn.place) == ("hello", Outcome.ANSWERED, True, 1)


async def test_a_conversation_that_began_while_the_store_was_away_has_its_whole_history(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    store.fail()
    first = await ask(server, "one")
    conversation = announced_id(first)
    second = await ask(server, "two", conversation)
    assert announced_id(second) == conversation
    assert second["_meta"]["perdure/history"] == {"state": "loaded", "turns": 1, "omitted": 0}
    assert '"content": "one"' in text_of(second)
    store.heal()
    until(lambda: sent(away), "not sent")
    third = await ask(server, "three", conversation)
    assert third["_meta"]["perdure/history"] == {"state": "loaded", "turns": 2, "omitted": 0}
    assert "perdure/deferred" not in third["_meta"]
    assert prompts(store.inner, conversation, "local") == ["one", "two", "three"]


async def test_a_call_that_comes_while_what_waits_is_being_sent_waits_for_it_and_has_its_whole_history(
    activate: Activate, store: FaultyStore, server: MCPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = activate(store, spooled=True, data_dir=tmp_path / "data", operation_timeout=60.0)
    assert runtime.spool is not None
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Drainer, "wake", lambda _: None)
        store.fail()
        conversation = announced_id(await ask(server, "one"))
    store.heal()
    sending = store.hang("finish", times=1)
    runtime.spool.wake()
    assert sending.entered.wait(20)
    slow = threading.Timer(0.8, sending.release)
    slow.start()
    result = await ask(server, "two", conversation)
    slow.join()
    assert result["_meta"]["perdure/history"] == {"state": "loaded", "turns": 1, "omitted": 0}
    assert "perdure/deferred" not in result["_meta"]


async def test_what_waits_is_shown_even_where_the_rest_cannot_be_read_and_it_is_said(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    await ask(server, "before", "c")
    store.fail()
    await ask(server, "waits", "c")
    result = await ask(server, "now", "c")
    assert result["_meta"]["perdure/history"] == {"state": "unavailable", "turns": 1, "omitted": 0}
    assert '"content": "waits"' in text_of(result)
    assert "could not be read just now" in text_of(result)
    assert '"content": "before"' not in text_of(result)


async def test_the_next_turn_does_not_overtake_those_that_wait(
    away: Runtime, store: FaultyStore, server: MCPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(server, "one", "c")
    monkeypatch.setattr(Drainer, "wake", lambda _: None)  # nobody drains in the background
    store.fail()
    await ask(server, "two", "c")
    store.heal()
    until(lambda: away.breaker.seconds_to_probe() == 0, "it stays open")
    result = await ask(server, "three", "c")
    assert result["_meta"]["perdure/history"] == {"state": "loaded", "turns": 2, "omitted": 0}
    assert prompts(store.inner, "c", "local") == ["one", "two", "three"]
    two = store.inner.turns("local", "c")[1]
    assert (two.deferred, two.after_place) == (True, 1)


async def test_an_answer_that_the_store_did_not_take_waits_for_its_place(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    store.fail("finish")
    result = await ask(server, "hello", "c")
    assert (result["_meta"]["perdure/persisted"], result["_meta"]["perdure/deferred"]) == (True, True)
    store.heal()
    until(lambda: sent(away), "not sent")
    [turn] = store.inner.turns("local", "c")
    assert (turn.outcome, turn.deferred) == (Outcome.ANSWERED, False)


async def test_a_turn_that_the_store_refuses_for_good_is_not_said_to_be_kept(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    store.fail("finish", error=TurnRefused("No."))
    meta = (await ask(server, "hello", "c"))["_meta"]
    assert (meta["perdure/persisted"], meta["perdure/fault"]) == (False, "turn_refused")
    assert sent(away)


async def test_with_the_store_away_and_the_spool_full_the_result_says_that_nothing_is_kept(
    activate: Activate, store: FaultyStore, server: MCPServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    activate(store, spooled=True, data_dir=tmp_path / "data", spool_max_bytes=10)
    store.fail()
    result = await ask(server, "hello", "c")
    assert text_of(result) == "[hello]"
    assert (result["_meta"]["perdure/persisted"], result["_meta"]["perdure/fault"]) == (False, "spool_full")
    assert "spool_max_bytes" in caplog.text


async def test_a_store_that_comes_back_takes_what_a_full_spool_could_not(
    activate: Activate, store: FaultyStore, server: MCPServer, tmp_path: Path
) -> None:
    activate(store, spooled=True, data_dir=tmp_path / "data", spool_max_bytes=10)
    store.fail("begin")
    assert (await ask(server, "hello", "c"))["_meta"]["perdure/persisted"] is True
    assert prompts(store.inner, "c", "local") == ["hello"]


async def test_a_disk_that_stalls_for_more_than_a_second_is_waited_for_by_all_calls(
    away: Runtime, store: FaultyStore, server: MCPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import anyio

    commit = GroupWriter._commit
    stalls = [1.6]

    def stalling(writer: GroupWriter, batch: list[Any]) -> None:
        if stalls:
            time.sleep(stalls.pop())
        commit(writer, batch)

    monkeypatch.setattr(GroupWriter, "_commit", stalling)
    store.fail()
    kept: list[bool] = []

    async with Client(server) as client, anyio.create_task_group() as tasks:

        async def call(number: int) -> None:
            await anyio.sleep(0.2 * (number // 3))
            result = await client.call_tool("chat", {"prompt": f"{number}"})
            kept.append((result.meta or {})["perdure/persisted"])

        for number in range(24):
            tasks.start_soon(call, number)
    assert kept == [True] * 24


async def test_what_somebody_must_mend_is_named_in_every_result_and_the_turns_wait(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    store.fail(error=StoreMisconfigured("No tables.", remedy="run perdure migrate."))
    for number in range(5):
        meta = (await ask(server, f"{number}", "c"))["_meta"]
        assert (meta["perdure/persisted"], meta["perdure/fault"]) == (True, "store_misconfigured")
        assert meta["perdure/remedy"] == "run perdure migrate."


async def test_a_store_that_hangs_costs_its_time_three_times_and_then_next_to_nothing(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    away.breaker._first_pause = away.breaker._pause = away.breaker._longest_pause = 60.0
    hang = store.hang()
    async with Client(server) as client:
        for number in range(6):
            before = store.calls("begin") + store.calls("finish")
            result = await client.call_tool("chat", {"prompt": f"{number}", "continuation_id": f"c{number}"})
            meta = result.meta or {}
            assert meta["perdure/persisted"] is True
            asked = store.calls("begin") + store.calls("finish") - before
            assert (asked > 0) == (number < 3), number
            assert meta["perdure/fault"] == ("store_timeout" if number < 3 else "store_left_alone")
    hang.release()


async def test_a_store_that_times_out_by_itself_is_a_store_that_is_away(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    store.fail(error=StoreTimeout("Slow."))
    assert (await ask(server, "hello"))["_meta"]["perdure/deferred"] is True


async def test_a_fault_that_nobody_foresaw_does_not_lose_the_turn(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    store.fail("begin", "finish", error=KeyError("place"), times=1)
    result = await ask(server, "hello", "c")
    assert result["_meta"]["perdure/persisted"] is True
    until(lambda: sent(away), "not sent")
    assert prompts(store.inner, "c", "local") == ["hello"]


async def test_many_calls_at_once_keep_their_pairs_through_an_outage(
    away: Runtime, store: FaultyStore, server: MCPServer
) -> None:
    import anyio

    async def some(name: str) -> None:
        for number in range(6):
            await ask(server, f"{name} {number}", name)

    async with anyio.create_task_group() as tasks:
        for index in range(8):
            tasks.start_soon(some, f"c{index}")
        await anyio.sleep(0.05)
        store.fail()
        await anyio.sleep(0.3)
        store.heal()
    deadline = time.monotonic() + 20
    while not sent(away):
        assert time.monotonic() < deadline
        await anyio.sleep(0.02)
    for index in range(8):
        turns = store.inner.turns("local", f"c{index}")
        assert [turn.prompt for turn in turns] == [f"c{index} {number}" for number in range(6)]
        assert all(turn.answer and turn.answer.text.endswith(f"{turn.prompt}]") for turn in turns)


async def test_a_tool_may_be_acknowledged_by_the_spool_alone(
    activate: Activate, store: FaultyStore, server: MCPServer, tmp_path: Path
) -> None:
    runtime = activate(
        store, spooled=True, data_dir=tmp_path / "data", tools={"chat": ToolSettings(acknowledge=Acknowledge.SPOOL)}
    )
    hang = store.hang("finish", times=1)
    result = await ask(server, "hello", "c")
    meta = result["_meta"]
    assert (meta["perdure/persisted"], meta["perdure/deferred"]) == (True, True)
    assert "perdure/fault" not in meta
    hang.release()
    until(lambda: sent(runtime), "not sent")
    [turn] = store.inner.turns("local", "c")
    assert (turn.outcome, turn.deferred) == (Outcome.ANSWERED, False)
