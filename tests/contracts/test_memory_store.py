"""The memory store keeps the contract, for as long as it lives; so does a `FaultyStore` that has no faults."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import TurnConflict
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.ports import Clock, Store, SystemClock
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.serialization import digest
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import BegunTurn, Turn, Window
from perdure.testing import FaultyStore, StoreContract
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8000)


class TestMemoryStore(StoreContract):
    outlives_close = False

    def make_store(self, clock: Clock, folder: Path) -> MemoryStore:
        return MemoryStore(clock)


class TestFaultyStoreWithoutFaults(StoreContract):
    outlives_close = False

    def make_store(self, clock: Clock, folder: Path) -> FaultyStore:
        return FaultyStore(MemoryStore(clock))


def a_new_turn() -> Turn:
    return replace(a_turn("Hello", continuation_id="c"), digest="", stored_form=False)


def begun(store: Store, turn: Turn) -> Turn:
    return Engine(store, SystemClock()).begin(turn, WINDOW, Redactor())[0]


def test_a_turn_that_nobody_else_can_begin_gets_its_digest_when_it_is_read() -> None:
    store = MemoryStore()
    turn = begun(store, a_new_turn())
    assert turn.digest == "", "it is not made in every call"
    store.finish(answered(turn))
    (kept,) = store.turns("alice", "c")
    assert kept.digest == digest("chat", {"prompt": "Hello"})


def test_its_id_is_no_other_calls_all_the_same() -> None:
    store = MemoryStore()
    turn = begun(store, a_new_turn())
    later_leg = replace(turn, place=1, stored_form=False)
    assert begun(store, later_leg).digest, "somebody may come with the id of a turn that has a place"
    with pytest.raises(TurnConflict):
        begun(store, replace(later_leg, arguments={"prompt": "Another"}))
    with pytest.raises(TurnConflict):
        store.finish(answered(replace(turn, digest="another")))


def test_two_turns_without_a_digest_are_of_one_call_only_if_they_say_the_same() -> None:
    store, turn = MemoryStore(), a_new_turn()
    place = store.begin(turn, WINDOW).place
    assert store.begin(replace(turn, arguments={"prompt": "Hello"}), WINDOW).replay
    for other in (replace(turn, arguments={"prompt": "Bye"}), replace(turn, tool="another")):
        with pytest.raises(TurnConflict):
            store.finish(answered(other))
    assert store.finish(answered(turn)).place == place


def test_a_store_that_does_not_say_that_it_makes_digests_is_given_them() -> None:
    assert begun(FaultyStore(MemoryStore()), a_new_turn()).digest


class OwnBeginning(MemoryStore):
    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        return super().begin(turn, window)


class HandingOn:
    def __init__(self) -> None:
        self._inner = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("made", [OwnBeginning, HandingOn])
def test_one_that_looks_at_turns_before_a_store_that_makes_digests_is_given_them(made: Callable[[], Store]) -> None:
    assert begun(made(), a_new_turn()).digest
