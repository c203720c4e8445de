"""Calls that come at once have their turns kept together, and none has anything to do with another's fate."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import Activate
from mcp.server.mcpserver import Image, MCPServer
from mcp_wire import Json, announced_id, called, kept, text_of
from spool.test_turns_that_wait import until
from telemetry.test_telemetry import Seen, seen

from perdure import Outcome, persisted
from perdure.errors import StoreTimeout
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.grouped_lane import GroupedLane
from perdure.middleware.persistence.jobs import Job
from perdure.middleware.persistence.ports import grouping_of
from perdure.middleware.persistence.spool.drainer import Drainer
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Turn
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import Settings
from perdure.testing import FaultyStore

__all__ = ["seen"]

OTHERS = [{"prompt": f"other {number}", "continuation_id": f"o-{number}"} for number in range(6)]


class Crowd:
    """A server with one tool, and a store in SQLite that is asked by one thread, which can be held."""

    def __init__(self, runtime: Runtime, store: FaultyStore) -> None:
        self.runtime = runtime
        self.store = store
        self.runtime.lane.size = 1
        self._are_to_end = asyncio.Event()
        self._running = 0
        self.between: Callable[[], object] = lambda: None
        """When all have begun, before any ends."""
        self.server = MCPServer("crowd")

        @self.server.tool()
        @persisted
        async def chat(prompt: str, pages: list[dict[str, str]] | None = None) -> str:
            self._running += 1
            await self._are_to_end.wait()
            return f"about {prompt}"

        @self.server.tool()
        @persisted
        async def draw(prompt: str) -> Image:
            self._running += 1
            await self._are_to_end.wait()
            return Image(data=bytes(300_000), format="png")

    async def ask(self, *calls: Json) -> list[Json]:
        """All begin at once, and all end at once."""
        self._running = 0
        self._are_to_end.clear()
        with self._held():
            results = [asyncio.create_task(called(self.server, "chat", arguments)) for arguments in calls]
            await self._have_come(self.runtime.beginnings, len(calls))
        while self._running < len(calls):
            await asyncio.sleep(0.001)
        self.between()
        with self._held():
            self._are_to_end.set()
            await self._have_come(self.runtime.endings, len(calls))
        return await asyncio.gather(*results)

    @contextmanager
    def _held(self) -> Iterator[None]:
        let_go = threading.Event()
        self.runtime.lane.submit(Job(lambda: let_go.wait(20)))
        try:
            yield
        finally:
            let_go.set()

    async def _have_come(self, lane: GroupedLane[Any, Any], calls: int) -> None:
        while len(lane._waiting) < calls:
            await asyncio.sleep(0.001)

    def turns(self, continuation_id: str) -> list[Turn]:
        return self.runtime.engine.turns("local", continuation_id)


@pytest.fixture
def crowd(activate: Activate, tmp_path: Path) -> Iterator[Crowd]:
    with closing(SqliteStore(tmp_path / "crowd.db")) as inner:
        store = FaultyStore(inner)
        yield Crowd(activate(store, spooled=True), store)


def test_what_the_settings_name_takes_several_at_once(tmp_path: Path) -> None:
    made = wiring.build(Settings(data_dir=tmp_path))
    assert (made.settings.backend, made.engine.most_together) == ("sqlite", 64)
    made.engine.store.close()


async def test_all_are_kept_by_one_call_of_the_store_and_each_is_given_its_own_history(crowd: Crowd) -> None:
    await crowd.ask(*OTHERS)
    before = {operation: crowd.store.calls(operation) for operation in ("begin", "finish")}
    results = await crowd.ask(*({**call, "prompt": f"again {call['prompt']}"} for call in OTHERS))
    for operation, count in before.items():
        assert crowd.store.calls(operation) == count + 1
    for call, result in zip(OTHERS, results, strict=True):
        assert result["_meta"]["perdure/history"] == {"state": "loaded", "turns": 1, "omitted": 0}
        first, second = crowd.turns(call["continuation_id"])
        assert (first.prompt, second.prompt) == (call["prompt"], f"again {call['prompt']}")
        for turn in (first, second):
            assert turn.outcome is Outcome.ANSWERED
            assert turn.answer is not None
            assert turn.answer.text.endswith(turn.prompt)


async def test_those_of_one_conversation_take_its_places_in_the_order_in_which_they_came(crowd: Crowd) -> None:
    await crowd.ask(*({"prompt": f"{number}", "continuation_id": "c"} for number in range(8)))
    assert [(turn.place, turn.prompt) for turn in crowd.turns("c")] == [(n + 1, f"{n}") for n in range(8)]


async def test_secrets_are_taken_out_of_each(crowd: Crowd) -> None:
    await crowd.ask(*({"prompt": f"Authorization: Bearer secret-{number}-abcdefgh"} for number in range(4)))
    for turn in kept(crowd.runtime):
        assert "secret-" not in f"{turn}"
        assert turn.outcome is Outcome.ANSWERED


async def test_one_that_is_not_taken_is_told_so_and_the_others_are_kept(activate: Activate, tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "crowd.db")) as inner:
        crowd = Crowd(activate(FaultyStore(inner), spooled=True, max_conversation_turns=1), FaultyStore(inner))
        await crowd.ask(*OTHERS)
        new, full, *_ = results = await _begun_at_once(
            crowd, {"prompt": "new"}, {"prompt": "over", "continuation_id": "o-1"}, {"prompt": "newer"}
        )
        assert full["_meta"]["perdure/fault"] == "conversation_full"
        assert [result["_meta"]["perdure/persisted"] for result in results] == [True, False, True]
        assert len(crowd.turns(announced_id(new))) == len(crowd.turns("o-1")) == 1


async def _begun_at_once(crowd: Crowd, *calls: Json) -> list[Json]:
    """Not all of them end."""
    crowd._are_to_end.set()
    with crowd._held():
        results = [asyncio.create_task(called(crowd.server, "chat", arguments)) for arguments in calls]
        await crowd._have_come(crowd.runtime.beginnings, len(calls))
    return await asyncio.gather(*results)


async def test_none_overtakes_what_waits_of_its_conversation(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = crowd.runtime
    runtime.breaker._first_pause = runtime.breaker._pause = 0.01
    monkeypatch.setattr(Drainer, "wake", lambda _: None)  # nobody drains in the background
    crowd.store.fail()
    crowd._are_to_end.set()
    await called(crowd.server, "chat", {"prompt": "waits", "continuation_id": "o-3"})
    crowd.store.heal()
    until(lambda: runtime.breaker.seconds_to_probe() == 0, "it stays open")
    await crowd.ask(*OTHERS)
    assert [turn.prompt for turn in crowd.turns("o-3")] == ["waits", "other 3"]
    assert [turn.prompt for turn in crowd.turns("o-2")] == ["other 2"]


async def test_a_turn_that_has_to_wait_knows_after_which_of_them_it_comes(crowd: Crowd) -> None:
    await crowd.ask(*OTHERS)
    crowd.store.fail()
    crowd._are_to_end.set()
    await called(crowd.server, "chat", {"prompt": "waits", "continuation_id": "o-3"})
    crowd.store.heal()
    spool = crowd.runtime.spool
    assert spool is not None
    spool.wake()
    until(lambda: not any(line.turns for line in spool.status()), "not sent")
    assert [(turn.prompt, turn.after_place) for turn in crowd.turns("o-3")] == [("other 3", None), ("waits", 1)]


async def test_one_whose_history_cannot_be_read_is_told_so_alone(crowd: Crowd, tmp_path: Path) -> None:
    await crowd.ask(*OTHERS)
    with closing(sqlite3.connect(tmp_path / "crowd.db", isolation_level=None)) as another:
        another.execute(
            "UPDATE chat_messages SET body = 'no JSON' WHERE role = 'assistant' AND content LIKE '%other 3'"
        )
    results = await _begun_at_once(crowd, *({**call, "prompt": "again"} for call in OTHERS))
    faults = [result["_meta"].get("perdure/fault") for result in results]
    assert faults == [None, None, None, "store_unavailable", None, None]


async def test_one_whose_history_is_damaged_on_the_disk_is_told_so_alone(crowd: Crowd, tmp_path: Path) -> None:
    path = tmp_path / "crowd.db"
    await crowd.ask(*OTHERS, {"prompt": "x", "pages": [{"scan": "Z" * 50_000}], "continuation_id": "o-3"})
    for number in range(3):  # So many are not read where the turns are written.
        await crowd.ask({"prompt": f"{number}", "continuation_id": "o-3"})
    crowd.store.inner.close()
    pages = path.read_bytes()
    size = int.from_bytes(pages[16:18], "big")
    damaged = [
        b"\xff" * 4 + page[4:] if page.count(b"Z") > size - 100 else page  # the number of the page that follows
        for page in (pages[at : at + size] for at in range(0, len(pages), size))
    ]
    path.write_bytes(b"".join(damaged))
    results = await _begun_at_once(crowd, *({**call, "prompt": "again"} for call in OTHERS))
    faults = [result["_meta"].get("perdure/fault") for result in results]
    assert faults == [None, None, None, "store_unavailable", None, None]


LONG: list[Json] = [{"prompt": "x" * 100_000}, {"prompt": "x", "pages": [{"scan": "x" * 100_000}] * 3}]


@pytest.mark.parametrize("arguments", LONG)
async def test_a_long_one_among_them_holds_up_none_of_the_others(crowd: Crowd, arguments: Json) -> None:
    crowd._are_to_end.set()
    with crowd._held():
        long = asyncio.create_task(called(crowd.server, "chat", {**arguments, "continuation_id": "long"}))
        while crowd.runtime.lane._unfinished < 2:
            await asyncio.sleep(0.001)
        assert not crowd.runtime.beginnings._waiting
        others = [asyncio.create_task(called(crowd.server, "chat", arguments)) for arguments in OTHERS]
        await crowd._have_come(crowd.runtime.beginnings, len(OTHERS))
    await asyncio.gather(long, *others)
    assert [len(crowd.turns(name)) for name in ("long", "o-0", "o-5")] == [1, 1, 1]


async def test_a_picture_that_one_of_them_gives_holds_up_none_of_the_others(crowd: Crowd) -> None:
    drawing = asyncio.create_task(called(crowd.server, "draw", {"prompt": "a", "continuation_id": "drawn"}))
    while not crowd._running:
        await asyncio.sleep(0.001)
    with crowd._held():
        crowd._are_to_end.set()
        while crowd.runtime.lane._unfinished < 2:
            await asyncio.sleep(0.001)
        assert not crowd.runtime.endings._waiting
    await drawing
    assert [turn.outcome for turn in crowd.turns("drawn")] == [Outcome.ANSWERED]


@pytest.mark.parametrize("fault", ["too few", "raises"])
async def test_a_store_that_is_wrong_about_several_is_given_each_by_itself(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def together(given: Sequence[object]) -> list[object]:
        if fault == "raises":
            raise MemoryError
        return [None]

    monkeypatch.setattr(crowd.store, "begin_together", together)
    monkeypatch.setattr(crowd.store, "finish_together", together)
    results = await crowd.ask(*OTHERS)
    assert all(result["_meta"]["perdure/persisted"] for result in results)
    assert not any("perdure/fault" in result["_meta"] for result in results)
    for call in OTHERS:
        assert [turn.outcome for turn in crowd.turns(call["continuation_id"])] == [Outcome.ANSWERED]


class HandingOn:
    """As people write what stands before a store: it has something of its own to do, and hands on the rest."""

    def __init__(self, inner: SqliteStore) -> None:
        self._inner = inner
        self.blocking = True
        self.begun = self.finished = 0

    def begin(self, *given: Any) -> Any:
        self.begun += 1
        return self._inner.begin(*given)

    def finish(self, *given: Any) -> Any:
        self.finished += 1
        return self._inner.finish(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Derived(SqliteStore):
    """Somebody's own store: it knows nothing of turns that go together."""

    begun = finished = 0

    def begin(self, *given: Any) -> Any:
        self.begun += 1
        return super().begin(*given)

    def finish(self, *given: Any) -> Any:
        self.finished += 1
        return super().finish(*given)


class TakesSeveral(Derived):
    """Made on that one, by somebody who does know."""

    def begin_together(self, *given: Any) -> Any:
        return super().begin_together(*given)

    def finish_together(self, *given: Any) -> Any:
        return super().finish_together(*given)


@pytest.mark.parametrize("kind", ["handing on", "derived"])
async def test_no_turn_passes_by_what_stands_before_a_store(activate: Activate, tmp_path: Path, kind: str) -> None:
    with closing(Derived(tmp_path / "crowd.db")) as inner:
        store: Any = HandingOn(inner) if kind == "handing on" else inner
        crowd = Crowd(activate(store), store)
        crowd.runtime.lane.size = 8
        crowd._are_to_end.set()
        await asyncio.gather(*(called(crowd.server, "chat", arguments) for arguments in OTHERS))
        assert (store.begun, store.finished) == (len(OTHERS), len(OTHERS))


def test_a_derived_store_takes_several_at_once_if_it_says_how(tmp_path: Path) -> None:
    with closing(TakesSeveral(tmp_path / "crowd.db")) as store:
        assert grouping_of(store) is store
        assert FaultyStore(store).most_together == store.most_together
    with closing(Derived(tmp_path / "crowd.db")) as store:
        assert FaultyStore(store).most_together == 1


async def test_one_time_out_of_the_store_that_all_are_told_counts_once(crowd: Crowd) -> None:
    crowd.store.fail("begin", error=StoreTimeout("A conversation is locked.", remedy="look who has it."), times=1)
    results = await _begun_at_once(crowd, *OTHERS)
    assert {result["_meta"]["perdure/fault"] for result in results} == {"store_timeout"}
    assert not crowd.runtime.breaker.is_open


async def test_a_store_that_says_it_takes_none_at_once_is_given_one_after_the_other(
    activate: Activate, tmp_path: Path
) -> None:
    with closing(SqliteStore(tmp_path / "crowd.db")) as inner:
        store = FaultyStore(inner)
        store.most_together = 0
        crowd = Crowd(activate(store), store)
        crowd._are_to_end.set()
        results = await asyncio.gather(*(called(crowd.server, "chat", call) for call in OTHERS))
        assert crowd.runtime.engine.grouping is None
        assert all(result["_meta"]["perdure/persisted"] for result in results)
        assert store.calls("begin") == store.calls("finish") == len(OTHERS)


@pytest.mark.parametrize("fate", ["fail", "lose_reply"])
async def test_what_the_store_does_not_take_of_them_waits_on_the_disk_and_is_sent(crowd: Crowd, fate: str) -> None:
    crowd.between = lambda: getattr(crowd.store, fate)("finish", times=1)
    results = await crowd.ask(*OTHERS)
    for result in results:
        assert result["_meta"]["perdure/persisted"] is True
        assert result["_meta"]["perdure/deferred"] is True
    spool = crowd.runtime.spool
    assert spool is not None
    spool.wake()
    until(lambda: not any(line.turns for line in spool.status()), "not sent")
    for call in OTHERS:
        (turn,) = crowd.turns(call["continuation_id"])
        assert (turn.outcome, turn.place) == (Outcome.ANSWERED, 1)


async def test_each_is_told_of_in_its_own_callers_trace(crowd: Crowd, seen: Seen) -> None:
    await crowd.ask(*OTHERS)
    calls = {span.context.span_id for span in seen.spans("tools/call chat") if span.context is not None}
    assert len(calls) == len(OTHERS)
    for name in ("begin_turn", "finish_turn"):
        spans = seen.spans(name)
        assert {span.parent.span_id for span in spans if span.parent is not None} == calls
        told = {(span.attributes or {})["gen_ai.conversation.id"] for span in spans}
        assert told == {call["continuation_id"] for call in OTHERS}
    assert seen.points("perdure.turns") == [
        ({"gen_ai.tool.name": "chat", "perdure.outcome": "answered", "perdure.kept_by": "store"}, len(OTHERS))
    ]


async def test_a_cancelled_call_among_them_is_kept_as_cancelled_and_the_others_as_answered(crowd: Crowd) -> None:
    """Its wait for the store is not broken off, so that nothing is left of it that nobody ends."""
    crowd._are_to_end.set()
    given_up = anyio.CancelScope()

    async def give_up() -> None:
        with given_up:
            await called(crowd.server, "chat", OTHERS[0])

    with crowd._held():
        tasks = [asyncio.create_task(called(crowd.server, "chat", arguments)) for arguments in OTHERS[1:]]
        tasks.append(asyncio.create_task(give_up()))
        await crowd._have_come(crowd.runtime.beginnings, len(OTHERS))
        given_up.cancel()
        await asyncio.sleep(0.01)
    *results, _ = await asyncio.gather(*tasks)
    assert given_up.cancelled_caught
    assert [text_of(result).splitlines()[0] for result in results] == [f"about {call['prompt']}" for call in OTHERS[1:]]
    assert [turn.outcome for turn in crowd.turns("o-0")] == [Outcome.CANCELLED]
    for call in OTHERS[1:]:
        assert [turn.outcome for turn in crowd.turns(call["continuation_id"])] == [Outcome.ANSWERED]
