"""A call of several legs (`InputRequiredResult`, protocol 2026-07-28) of a server behind the proxy is one turn."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from legs.asking import answer
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import ElicitResult
from mcp_wire import text_of, wire
from proxy.conftest import PATIENCE, turns_in_store

from perdure import Outcome

SERVER = str(Path(__file__).with_name("asking_server.py"))
PERDURE = str(Path(sys.executable).with_name("perdure"))

both_kinds = pytest.mark.parametrize("kind", ["sealed", "plain"])
"""Whether the server's SDK encrypts the request state."""


@asynccontextmanager
async def proxied(kind: str, **environment: str) -> AsyncIterator[Client]:
    parameters = StdioServerParameters(
        command=PERDURE,
        args=["proxy", "--", sys.executable, SERVER, kind],
        env={**os.environ, "PERDURE_DEFAULTS__ENABLED": "true", **environment},
    )

    async def elicited(_context: Any, _params: Any) -> ElicitResult:
        return answer("yes")

    async with Client(stdio_client(parameters), elicitation_callback=elicited) as client:
        yield client


async def asked(client: Client, tool: str = "book", **arguments: str) -> dict[str, Any]:
    arguments = {"prompt": "trip", **arguments}
    return wire(await client.session.call_tool(tool, arguments, allow_input_required=True))


async def answered(client: Client, state: str | None, tool: str = "book", **arguments: str) -> dict[str, Any]:
    given = await client.session.call_tool(
        tool,
        {"prompt": "trip", **arguments},
        request_state=state,
        input_responses={"q": answer("yes")},
        allow_input_required=True,
    )
    return wire(given)


def said(result: dict[str, Any]) -> Any:
    """What the tool was called with."""
    return json.loads(text_of(result).partition("\n")[0])


SAID = {"prompt": "trip", "state": "mine", "answer": "yes"}


@both_kinds
async def test_both_legs_are_one_turn_and_the_server_gets_its_own_state_back(kind: str) -> None:
    async with proxied(kind) as client:
        result = wire(await client.call_tool("book", {"prompt": "trip"}))
    assert said(result) == SAID
    [turn] = turns_in_store()
    assert (turn.prompt, turn.outcome, turn.place) == ("trip", Outcome.ANSWERED, 1)
    assert result["_meta"]["perdure/turn-id"] == turn.id
    assert result["_meta"]["perdure/continuation-id"] == turn.continuation_id
    assert "perdure/fault" not in result["_meta"]


@both_kinds
async def test_the_second_leg_may_come_to_other_processes(kind: str) -> None:
    async with proxied(kind) as client:
        question = await asked(client)
    async with proxied(kind) as client:
        result = await answered(client, question["requestState"])
    assert said(result) == SAID
    [turn] = turns_in_store()
    assert turn.outcome is Outcome.ANSWERED


async def test_a_server_without_a_state_of_its_own_is_given_none() -> None:
    async with proxied("plain") as client:
        question = await asked(client, "book_stateless")
        result = await answered(client, question["requestState"], "book_stateless")
    assert said(result) == {**SAID, "state": None}
    assert len(turns_in_store()) == 1


@both_kinds
async def test_a_tool_that_was_switched_off_between_the_legs_gets_its_own_state(kind: str, tmp_path: Path) -> None:
    settings = tmp_path / "perdure.toml"
    settings.write_text("[tools.book]\nenabled = true\n")
    async with proxied(kind, PERDURE_CONFIG=str(settings), PERDURE_DEFAULTS__ENABLED="false") as client:
        question = await asked(client)
        assert question["requestState"].startswith("perdure.1.")
        settings.write_text("[tools.book]\nenabled = false\n")
        with anyio.fail_after(PATIENCE):
            while "continuation_id" in str(wire((await client.list_tools(cache_mode="bypass")).tools[0])):
                pass
        result = await answered(client, question["requestState"])
    assert said(result) == SAID
    assert "perdure/turn-id" not in result.get("_meta", {})


async def test_an_altered_envelope_leaves_the_server_its_own_state_and_the_leg_is_a_turn_of_its_own() -> None:
    async with proxied("plain") as client:
        question = await asked(client)
        state, _, tag = question["requestState"].rpartition(".")
        result = await answered(client, f"{state}.{tag[::-1]}")
    assert said(result) == SAID
    assert result["_meta"]["perdure/fault"] == "request_state_refused"
    assert len(turns_in_store()) == 2
