"""A call over a limit goes on as ever; it is not kept, and its result says so and what to do."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Activate
from legs.asking import ASKING, Booking, book_with
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_wire import called, kept, text_of

from perdure import History, Outcome, persisted
from perdure.middleware.persistence.rate import Rate
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings
from perdure.testing import FaultyStore

Json = dict[str, Any]


class Tool:
    """One that answers how many turns of history it was given."""

    def __init__(self) -> None:
        self.server = MCPServer("limits")
        self.ran = 0

        @self.server.tool()
        @persisted
        def chat(prompt: str, history: History) -> str:
            self.ran += 1
            return f"{prompt}, after {[turn.prompt for turn in history]}"

    async def call(self, prompt: str, continuation_id: str | None = "c", meta: Json | None = None) -> Json:
        arguments = {"prompt": prompt} | ({"continuation_id": continuation_id} if continuation_id else {})
        return await called(self.server, "chat", arguments, meta)


@pytest.fixture
def tool() -> Tool:
    return Tool()


def told(result: Json) -> Json:
    """What `_meta` says, but for ids."""
    return {
        name.removeprefix("perdure/"): value
        for name, value in result["_meta"].items()
        if name.startswith("perdure/") and not name.endswith("-id")
    }


# ── turns of a conversation ──────────────────────────────────────────────────────────────────────────────────


async def test_a_conversation_that_is_full_gives_its_history_and_takes_no_turn(activate: Activate, tool: Tool) -> None:
    runtime = activate(max_conversation_turns=2)
    for prompt in ("one", "two"):
        assert told(await tool.call(prompt))["persisted"] is True
    over = await tool.call("three")
    assert text_of(over).splitlines()[0] == "three, after ['one', 'two']"
    assert told(over) == {
        "persisted": False,
        "history": {"state": "loaded", "turns": 2, "omitted": 0},
        "fault": "conversation_full",
        "remedy": "begin a new conversation: call without a continuation id.",
    }
    assert [turn.prompt for turn in kept(runtime)] == ["one", "two"]
    assert told(await tool.call("elsewhere", "another"))["persisted"] is True


async def test_a_turn_in_a_full_conversation_costs_no_more_round_trips_than_another(
    activate: Activate, tool: Tool
) -> None:
    store = FaultyStore(MemoryStore())
    activate(store, max_conversation_turns=1)
    await tool.call("one")
    await tool.call("two")
    operations = ("begin", "finish", "turns", "conversations", "file", "files")
    assert {name: store.calls(name) for name in operations if store.calls(name)} == {
        "begin": 2, "finish": 1, "turns": 1,
    }  # fmt: skip


async def test_the_history_of_a_full_conversation_keeps_to_its_budget(activate: Activate, tool: Tool) -> None:
    activate(max_conversation_turns=5, defaults=ToolSettings(max_turns=2))
    for number in range(5):
        await tool.call(f"{number}")
    over = await tool.call("over")
    assert text_of(over).splitlines()[0] == "over, after ['3', '4']"
    assert told(over)["history"] == {"state": "loaded", "turns": 2, "omitted": 3}


async def test_of_many_calls_at_once_no_more_are_kept_than_there_are_places(activate: Activate, tool: Tool) -> None:
    runtime = activate(max_conversation_turns=5)
    results = await asyncio.gather(*(tool.call(f"{number}") for number in range(12)))
    assert sum(told(result)["persisted"] for result in results) == 5
    assert len(kept(runtime)) == 5
    assert tool.ran == 12


async def test_what_was_answered_before_the_conversation_was_full_is_given_again(
    activate: Activate, tool: Tool
) -> None:
    activate(max_conversation_turns=1, defaults=ToolSettings(replay=True))
    again = {"perdure/idempotency-key": "k"}
    first, second = [await tool.call("one", meta=again) for _ in range(2)]
    assert text_of(first) == text_of(second)
    assert tool.ran == 1


# ── rate ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def limited(activate: Activate) -> Callable[..., Runtime]:
    """A runtime that keeps two turns in a minute which does not pass."""

    def limited(**settings: Any) -> Runtime:
        runtime = activate(max_turns_per_minute=2, **settings)
        runtime.rate = Rate(lambda: 0.0)
        return runtime

    return limited


async def test_a_call_over_the_rate_runs_and_says_when_the_next_is_kept(
    limited: Callable[..., Runtime], tool: Tool
) -> None:
    runtime = limited()
    for prompt in ("one", "two"):
        await tool.call(prompt)
    over = await tool.call("three")
    assert text_of(over).splitlines()[0] == "three, after []"
    assert told(over) == {
        "persisted": False,
        "history": {"state": "unavailable", "turns": 0, "omitted": 0},
        "fault": "rate_limited",
        "remedy": "call again in 30.0 s for a turn that is kept, or raise max_turns_per_minute.",
        "retry-after": 30.0,
    }
    assert [turn.prompt for turn in kept(runtime)] == ["one", "two"]
    runtime.rate = Rate(lambda: 30.0)
    assert text_of(await tool.call("four")).splitlines()[0] == "four, after ['one', 'two']"


async def test_a_caller_over_the_rate_holds_up_nobody_else(limited: Callable[..., Runtime], tool: Tool) -> None:
    runtime = limited(tools={"other": ToolSettings(user_id="ann")})

    @tool.server.tool()
    @persisted
    def other(prompt: str) -> str:
        return prompt

    for number in range(10):
        await tool.call(f"{number}")
    assert told(await called(tool.server, "other", {"prompt": "ann's"}))["persisted"] is True
    assert [turn.principal for turn in kept(runtime)].count("ann") == 1


async def test_over_the_rate_a_call_that_is_replayed_is_refused_rather_than_run_twice(
    limited: Callable[..., Runtime], tool: Tool
) -> None:
    limited(defaults=ToolSettings(replay=True))
    for _ in range(2):
        await tool.call("pay", meta={"perdure/idempotency-key": "k"})
    over = await tool.call("pay", meta={"perdure/idempotency-key": "k"})
    assert over["isError"] is True
    assert "calls more often than turns are kept" in text_of(over)
    assert tool.ran == 1


async def test_a_call_that_was_admitted_comes_to_its_end_however_many_others_came_meanwhile(
    limited: Callable[..., Runtime], tool: Tool
) -> None:
    runtime = limited()
    server = ASKING["decorated"](Booking(questions=1))
    async with Client(server) as client:
        asked = await book_with(client)()
    for number in range(10):
        await tool.call(f"{number}")
    async with Client(server) as client:
        result = await book_with(client)(state=asked["requestState"], text="yes")
    assert told(result)["persisted"] is True
    assert Outcome.ANSWERED in [turn.outcome for turn in kept(runtime) if turn.prompt == "trip"]


async def test_a_question_of_a_call_that_is_not_kept_reaches_its_client_as_the_tool_asked_it(
    limited: Callable[..., Runtime], tool: Tool
) -> None:
    limited()
    for number in range(3):
        await tool.call(f"{number}")
    server = ASKING["decorated"](Booking(questions=1))
    async with Client(server) as client:
        asked = await book_with(client)()
        result = await book_with(client)(state=asked["requestState"], text="yes")
    assert text_of(result).startswith("booked trip yes")
    assert told(result)["fault"] == "rate_limited"
