"""A call that its client sends again under its idempotency key is one turn, and may be given its first answer."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from conftest import Activate
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer
from mcp_wire import called, text_of, without_announcement

from perdure import Outcome, install, persisted
from perdure.errors import StoreUnavailable
from perdure.middleware.idempotency import turn_id_of
from perdure.middleware.meta_keys import META_IDEMPOTENCY_KEY
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import DEFAULT_LEASE, BegunTurn, Turn, Window, new_turn_id
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings
from perdure.testing import FaultyStore, FrozenClock
from perdure.testing.turns import a_turn

Json = dict[str, Any]

KEY = {META_IDEMPOTENCY_KEY: "order 7"}


@pytest.fixture(params=["async", "sync", "hook"])
def seam(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


class Counting:
    """A server whose tools count how often they ran."""

    def __init__(self, seam: str) -> None:
        self.ran = 0
        self.fails = 0
        self.server = MCPServer("counting")
        for name in ("order", "other"):
            if seam == "sync":
                self.server.tool(name=name)(persisted(self._order_sync()))
            elif seam == "async":
                self.server.tool(name=name)(persisted(self._order()))
            else:
                self.server.tool(name=name)(self._order())
        if seam == "hook":
            install(self.server, tools=["order", "other"])

    async def call(self, prompt: str = "buy", tool: str = "order", meta: Any = KEY, **arguments: Any) -> Json:
        return await called(self.server, tool, {"prompt": prompt} | arguments, meta)

    def _run(self, prompt: str) -> str:
        self.ran += 1
        if self.fails:
            self.fails -= 1
            raise ValueError("out of stock")
        return f"run {self.ran}: {prompt.splitlines()[-1]}"

    def _order(self) -> Any:
        async def order(prompt: str) -> str:
            return self._run(prompt)

        return order

    def _order_sync(self) -> Any:
        def order(prompt: str) -> str:
            return self._run(prompt)

        return order


@pytest.fixture
def counting(seam: str) -> Counting:
    return Counting(seam)


def turns(runtime: Runtime) -> list[tuple[str, Outcome]]:
    """All of them, in all conversations."""
    store = runtime.engine.store
    return [
        (turn.answer.text if turn.answer else "", turn.outcome)
        for line in store.conversations()
        for turn in store.turns(line.principal, line.continuation_id)
    ]


def same(result: Json) -> Json:
    """`result` as the tool gave it: without what perdure and the SDK stamp on it."""
    return {name: value for name, value in without_announcement(result).items() if name != "_meta"}


def replaying(activate: Activate, **settings: Any) -> Runtime:
    return activate(defaults=ToolSettings(replay=True), **settings)


async def test_a_call_that_is_sent_again_is_recorded_once_under_the_id_it_had(
    runtime: Runtime, counting: Counting
) -> None:
    first = await counting.call()
    again = await counting.call()
    assert again["_meta"]["perdure/continuation-id"] == first["_meta"]["perdure/continuation-id"]
    assert again["_meta"]["perdure/turn-id"] == first["_meta"]["perdure/turn-id"]
    assert again["_meta"]["perdure/persisted"] is True
    assert turns(runtime) == [("run 1: buy", Outcome.ANSWERED)]
    assert counting.ran == 2


async def test_where_the_policy_says_so_the_tool_does_not_run_again_and_its_answer_is_given(
    activate: Activate, counting: Counting
) -> None:
    runtime = replaying(activate)
    first = await counting.call()
    again = await counting.call()
    assert same(again) == same(first)
    assert text_of(again) == "run 1: buy"
    assert again["_meta"]["perdure/persisted"] is True
    assert counting.ran == 1
    assert turns(runtime) == [("run 1: buy", Outcome.ANSWERED)]


async def test_an_answer_is_given_again_after_a_restart(activate: Activate, seam: str) -> None:
    store = MemoryStore()
    activate(store, defaults=ToolSettings(replay=True))
    before, after = Counting(seam), Counting(seam)
    first = await before.call()
    activate(store, defaults=ToolSettings(replay=True))
    assert text_of(await after.call()) == text_of(first)
    assert after.ran == 0


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize(("prompt", "tool"), [("sell", "order"), ("buy", "other")])
async def test_the_same_key_for_another_call_is_refused_in_words_and_changes_nothing(
    activate: Activate, counting: Counting, replay: bool, prompt: str, tool: str
) -> None:
    runtime = activate(defaults=ToolSettings(replay=replay))
    await counting.call()
    refused = await counting.call(prompt, tool)
    assert refused["isError"] is True
    assert "'order 7' was used before for another call" in text_of(refused)
    assert "Remedy" in text_of(refused)
    assert counting.ran == 1
    assert turns(runtime) == [("run 1: buy", Outcome.ANSWERED)]


async def test_other_keys_and_no_key_are_other_calls(runtime: Runtime, counting: Counting) -> None:
    for meta in (
        KEY,
        {META_IDEMPOTENCY_KEY: "order 8"},
        None,
        None,
        {META_IDEMPOTENCY_KEY: ""},
        {META_IDEMPOTENCY_KEY: 7},
    ):
        await counting.call(meta=meta)
    assert len(turns(runtime)) == 6


async def test_what_failed_may_be_tried_again_and_its_success_is_kept_once(
    activate: Activate, counting: Counting
) -> None:
    runtime = replaying(activate)
    counting.fails = 2
    assert (await counting.call())["isError"] is True
    assert (await counting.call())["isError"] is True
    assert text_of(await counting.call()) == "run 3: buy"
    assert text_of(await counting.call()) == "run 3: buy"
    assert counting.ran == 3
    assert sorted(outcome for _, outcome in turns(runtime)) == [Outcome.ANSWERED, Outcome.FAILED, Outcome.FAILED]


async def test_a_call_that_runs_still_is_not_run_beside_itself(activate: Activate, counting: Counting) -> None:
    store = MemoryStore()
    runtime = replaying(activate, store=store)
    now = runtime.engine.clock.now()
    running = replace(
        a_turn("buy", continuation_id="c", principal="local", tool="order"),
        id=turn_id_of("local", "order 7", 0),
        started_at=now,
        lease_until=now + timedelta(minutes=1),
    )
    store.begin(running, Window(0, 0))
    refused = await counting.call()
    assert refused["isError"] is True
    assert "has no answer yet" in text_of(refused)
    assert counting.ran == 0
    assert runtime.engine.running.count == 0  # or it would seem to run for as long as somebody asks for it


async def test_a_call_whose_process_has_died_is_run_again_once_its_lease_is_over(
    activate: Activate, counting: Counting
) -> None:
    store, clock = MemoryStore(), FrozenClock()
    runtime = activate(store, clock=clock, defaults=ToolSettings(replay=True))
    dead = replace(
        a_turn("buy", continuation_id="c", principal="local", tool="order"),
        id=turn_id_of("local", "order 7", 0),
        started_at=clock.now(),
        lease_until=clock.now() + DEFAULT_LEASE,
    )
    store.begin(dead, Window(0, 0))
    clock.advance(DEFAULT_LEASE)
    assert (await counting.call())["isError"] is True
    clock.advance(1)
    assert text_of(await counting.call()) == text_of(await counting.call()) == "run 1: buy"
    assert turns(runtime) == [("run 1: buy", Outcome.ANSWERED)]


async def test_an_answer_that_cannot_be_read_is_not_an_answer_that_was_never_given(
    activate: Activate, counting: Counting
) -> None:
    store = FaultyStore(MemoryStore())
    replaying(activate, store=store)
    await counting.call()
    store.fail("turns", error=StoreUnavailable("away"))
    refused = await counting.call()
    assert refused["isError"] is True
    assert "try again later" in text_of(refused)
    assert counting.ran == 1


class FailsAtItsLastBeginning(FaultyStore):
    """Takes `begins` turns, and is away for the next one only."""

    def __init__(self, begins: int) -> None:
        super().__init__(MemoryStore())
        self.begins = begins

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        if self.calls("begin") == self.begins:
            self.fail("begin", error=StoreUnavailable("away"), times=1)
        return super().begin(turn, window)


async def test_a_store_that_fails_on_a_second_attempt_gives_no_other_calls_answer(
    activate: Activate, counting: Counting
) -> None:
    store = FailsAtItsLastBeginning(begins=3)
    replaying(activate, store=store)
    await counting.call("first of all", meta=None, continuation_id="c")
    counting.fails = 1
    await counting.call(continuation_id="c")
    again = await counting.call(continuation_id="c")
    assert text_of(again) == "run 3: buy"
    assert store.calls("begin") == 4
    assert again["_meta"]["perdure/turn-id"] == turn_id_of("local", "order 7", 1)


async def test_an_answer_is_never_that_of_another_turn_in_the_place_of_one_that_is_gone(
    activate: Activate, counting: Counting
) -> None:
    class Thinned(MemoryStore):
        """Turns are gone from it, as where an operator deleted rows."""

        gone: tuple[str, ...] = ()

        def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
            kept = super().turns(principal, continuation_id, after=after)
            return [turn for turn in kept if turn.id not in self.gone][:limit]

    store = Thinned()
    replaying(activate, store=store)
    first = await counting.call(continuation_id="c")
    await counting.call("sell", meta=None, continuation_id="c")
    store.gone = (first["_meta"]["perdure/turn-id"],)
    assert text_of(await counting.call(continuation_id="c")) == "run 3: buy"


async def test_keys_of_two_users_have_nothing_to_do_with_each_other(activate: Activate, counting: Counting) -> None:
    store = MemoryStore()
    activate(store, user_id="alice", defaults=ToolSettings(replay=True))
    await counting.call()
    activate(store, user_id="bob", defaults=ToolSettings(replay=True))
    assert text_of(await counting.call("sell")) == "run 2: sell"


@given(st.text(), st.text(max_size=200), st.integers(0, 9))
def test_ids_are_the_same_for_the_same_key_and_no_random_ones(principal: str, key: str, attempt: int) -> None:
    made = turn_id_of(principal, key, attempt)
    assert made == turn_id_of(principal, key, attempt)
    assert (made[14], made[19] in "89ab") == ("8", True)
    assert new_turn_id(FrozenClock().now())[14] == "7"
    assert made != turn_id_of(principal, key, attempt + 1)
    assert made != turn_id_of(principal + "x", key, attempt)
