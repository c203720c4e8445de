"""A conversation that has expired is never read, listed, found or continued: its id begins a new one."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from postgres.databases import Functions

from perdure.middleware.persistence.files.names import tenant_of
from perdure.middleware.persistence.stores.sql_arguments import beginning_of
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import StoredFile, Turn, Window
from perdure.testing import FrozenClock
from perdure.testing.turns import answered

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
A_MOMENT = timedelta(microseconds=1)
WIDE = Window(turns=1000, tokens=1_000_000)
A_FILE = StoredFile(key="", bucket="mcp-files", name="n", sha256="0" * 64, size=1, media_type="text/plain")


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON - A_MOMENT)


@pytest.fixture
def store(mine: Functions, clock: FrozenClock) -> SqlFunctionStore:
    return SqlFunctionStore(mine, clock)


@pytest.fixture
def kept(mine: Functions, store: SqlFunctionStore, clock: FrozenClock) -> Turn:
    """An answered turn in a conversation that expires at noon, a moment from now."""
    turn = mine.turn("needle", files=(replace(A_FILE, key=_key(mine)),))
    _begin(mine, turn, at=clock.now(), expires_at=NOON)
    store.finish(answered(turn))
    return turn


LOOKS: dict[str, Callable[[Functions, SqlFunctionStore], Any]] = {
    "read": lambda mine, store: store.turns(mine.principal, "c"),
    "listed": lambda mine, store: store.conversations(mine.principal),
    "looked up": lambda mine, store: store.conversations(mine.principal, "c"),
    "listed with files": lambda mine, store: store.files(mine.principal),
    "asked for a file": lambda mine, store: store.file(mine.principal, _key(mine)),
    "searched": lambda mine, store: mine("search_messages", query="needle", at=store._clock.now().isoformat())["hits"],
    "continued": lambda mine, store: store.begin(mine.turn("next"), WIDE).history,
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.usefixtures("kept")
def test_up_to_its_last_moment_it_is_there(mine: Functions, store: SqlFunctionStore, look: str) -> None:
    assert LOOKS[look](mine, store)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.usefixtures("kept")
def test_from_its_last_moment_on_it_is_as_if_it_had_never_been(
    mine: Functions, store: SqlFunctionStore, clock: FrozenClock, look: str
) -> None:
    clock.set(NOON)
    assert not LOOKS[look](mine, store)


@pytest.mark.usefixtures("kept")
def test_the_same_id_begins_a_new_conversation_that_does_not_expire(
    mine: Functions, store: SqlFunctionStore, clock: FrozenClock
) -> None:
    clock.set(NOON)
    begun = store.begin(mine.turn("anew"), WIDE)
    assert (begun.continuation_id, begun.place, begun.replay, begun.history) == ("c", 1, False, ())
    clock.advance(timedelta(days=365))
    assert [turn.prompt for turn in store.turns(mine.principal, "c")] == ["anew"]
    assert [line.turns for line in store.conversations(mine.principal)] == [1]
    clock.set(NOON - A_MOMENT)  # nor does the old one show among the living for whoever looks back
    assert [line.continuation_id for line in store.conversations(mine.principal)] == ["c"]
    assert [turn.prompt for turn in store.turns(mine.principal, "c")] == ["anew"]


def test_a_turn_that_never_began_here_begins_a_new_one_too(
    mine: Functions, store: SqlFunctionStore, clock: FrozenClock, kept: Turn
) -> None:
    clock.set(NOON)
    finished = store.finish(answered(mine.turn("late", deferred=True, after_place=1), "kept"))
    assert (finished.continuation_id, finished.place) == ("c", 1)
    assert [turn.prompt for turn in store.turns(mine.principal, "c")] == ["late"]


@pytest.mark.parametrize("replaced", [False, True], ids=["before its id is used again", "after its id was used again"])
def test_a_turn_that_outlives_its_conversation_is_acknowledged_under_the_name_it_knows(
    mine: Functions, store: SqlFunctionStore, clock: FrozenClock, kept: Turn, replaced: bool
) -> None:
    running = mine.turn("running")
    place = store.begin(running, WIDE).place
    clock.set(NOON)
    if replaced:
        store.begin(mine.turn("anew"), WIDE)
    begun = store.begin(running, WIDE)
    assert (begun.replay, begun.continuation_id, begun.place, begun.history) == (True, "c", place, ())
    finished = store.finish(answered(running, "at last"))
    assert (finished.continuation_id, finished.place) == ("c", place)
    assert store.begin(kept, WIDE).continuation_id == "c"
    assert [turn.prompt for turn in store.turns(mine.principal, "c")] == (["anew"] if replaced else [])


def test_a_later_turn_may_give_it_more_time_and_one_that_says_nothing_changes_nothing(
    mine: Functions, store: SqlFunctionStore, clock: FrozenClock, kept: Turn
) -> None:
    _begin(mine, mine.turn("says nothing"), at=clock.now())
    clock.set(NOON)
    assert store.turns(mine.principal, "c") == []
    clock.set(NOON - A_MOMENT)
    _begin(mine, mine.turn("more"), at=clock.now(), expires_at=NOON + A_MOMENT)
    clock.set(NOON)
    assert [turn.prompt for turn in store.turns(mine.principal, "c")] == ["needle", "says nothing", "more"]
    clock.advance(A_MOMENT)
    assert store.turns(mine.principal, "c") == []


def test_an_id_that_may_not_be_adopted_is_not_adopted_for_having_been_a_conversation_once(
    mine: Functions, store: SqlFunctionStore, clock: FrozenClock
) -> None:
    _begin(mine, mine.turn("minted", minted=True), at=clock.now(), expires_at=NOON)
    stranger = mine.turn("is it still there?", adopt=False, fresh_id="fresh")
    clock.set(NOON)
    assert store.begin(stranger, WIDE).continuation_id == "fresh"


def _key(functions: Functions) -> str:
    return f"{tenant_of(functions.principal)}/{A_FILE.sha256}/n"


def _begin(functions: Functions, turn: Turn, **changes: datetime) -> None:
    """With what a store does not say."""
    arguments = beginning_of(turn, turn.started_at).given | {name: value.isoformat() for name, value in changes.items()}
    assert functions.call("begin_turn", arguments)["status"] == "new"
