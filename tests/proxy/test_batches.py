"""Arrays of messages, which protocol version 2025-03-26 has."""

import json
from typing import Any

from mcp_wire import kept
from proxy.conftest import RawClient, behind

from perdure import Outcome
from perdure.middleware.persistence.wiring import Runtime


def message(id_: Any, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def call(id_: Any, name: str) -> dict[str, Any]:
    return message(id_, "tools/call", name=name, arguments={"prompt": str(id_)})


async def test_the_calls_of_a_batch_are_kept_and_answered_together(all_kept: Runtime) -> None:
    async with behind() as client:
        batch = [call(1, "echo"), message(2, "ping"), {"jsonrpc": "2.0", "method": "notifications/x"}, call(3, "error")]
        client.send_line(json.dumps([*batch, message(4, "tools/list")]))
        answers = {answer["id"]: answer for answer in json.loads(await client.line())}
    assert sorted(answers) == [1, 2, 3, 4]
    assert answers[1]["result"]["_meta"]["perdure/persisted"] is True
    assert answers[2]["result"]["method"] == "ping"
    assert answers[3]["error"]["code"] == -32042
    assert "continuation_id" in answers[4]["result"]["tools"][0]["inputSchema"]["properties"]
    assert sorted((turn.prompt, turn.outcome) for turn in kept(all_kept)) == [
        ("1", Outcome.ANSWERED),
        ("3", Outcome.FAILED),
    ]


async def test_a_batch_answers_without_the_call_that_was_cancelled(all_kept: Runtime) -> None:
    async with behind() as client:
        client.send_line(json.dumps([call(1, "slow"), call(2, "echo")]))
        await reached(client, 2)
        client.send("notifications/cancelled", {"requestId": 1})
        lines = []
        while not isinstance(lines[-1] if lines else None, list):
            lines.append(json.loads(await client.line()))
    assert [answer["id"] for answer in lines[-1]] == [2]
    assert sorted(turn.outcome for turn in kept(all_kept)) == [Outcome.ANSWERED, Outcome.CANCELLED]


async def reached(client: RawClient, calls: int) -> None:
    """Until the server has that many calls."""
    while sum("tools/call" in line for line in (await client.ask("test/received"))["result"]["lines"]) < calls:
        pass
