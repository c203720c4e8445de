"""The faults of `FaultyStore` are those that a test asked for, and no others."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from perdure.errors import StoreTimeout, StoreUnavailable
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import Window
from perdure.testing import FaultyStore, FrozenClock
from perdure.testing.turns import a_turn, answered

TURN = answered(a_turn("hello", continuation_id="c"), "hi")


@pytest.fixture
def inner() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def store(inner: MemoryStore) -> FaultyStore:
    return FaultyStore(inner)


def test_a_failing_operation_keeps_nothing_and_the_others_work(store: FaultyStore, inner: MemoryStore) -> None:
    store.fail("finish")
    with pytest.raises(StoreUnavailable):
        store.finish(TURN)
    assert inner.turns("alice", "c") == []
    assert store.begin(TURN, Window(1, 1)).place == 1


def test_it_fails_as_often_and_with_what_it_was_told_to(store: FaultyStore) -> None:
    store.fail("turns", error=StoreTimeout("slow"), times=1)
    store.fail("turns", error=OSError("gone"), times=2)
    raised = []
    for _ in range(4):
        try:
            store.turns("alice", "c")
        except Exception as error:
            raised.append(type(error))
    assert raised == [StoreTimeout, OSError, OSError]
    assert store.calls("turns") == 4


def test_a_fault_for_no_operation_in_particular_is_one_for_all(store: FaultyStore) -> None:
    store.fail()
    for call in (
        lambda: store.begin(TURN, Window(1, 1)),
        lambda: store.finish(TURN),
        lambda: store.turns("alice", "c"),
        store.conversations,
        lambda: store.file("alice", "key"),
        lambda: store.files("alice"),
    ):
        with pytest.raises(StoreUnavailable):
            call()
    store.heal()
    assert store.finish(TURN).place == 1


def test_a_lost_reply_is_an_error_for_the_writer_and_a_turn_for_everybody_else(
    store: FaultyStore, inner: MemoryStore
) -> None:
    store.lose_reply("finish", times=1)
    with pytest.raises(StoreUnavailable):
        store.finish(TURN)
    assert len(inner.turns("alice", "c")) == 1
    assert store.finish(TURN).place == 1


def test_a_hanging_call_is_held_until_it_is_let_go_and_then_does_its_work(
    store: FaultyStore, inner: MemoryStore
) -> None:
    hang = store.hang("finish")
    call = threading.Thread(target=store.finish, args=(TURN,))
    call.start()
    assert hang.entered.wait(10)
    assert inner.turns("alice", "c") == []
    store.heal()
    call.join(10)
    assert len(inner.turns("alice", "c")) == 1


def test_a_delayed_call_does_its_work_that_much_later(store: FaultyStore, inner: MemoryStore) -> None:
    slept: list[tuple[float, int]] = []
    store.delay("finish", seconds=3.5, times=1, sleep=lambda s: slept.append((s, len(inner.turns("alice", "c")))))
    store.finish(TURN)
    store.finish(TURN)
    assert slept == [(3.5, 0)]
    assert len(inner.turns("alice", "c")) == 1


def test_it_is_as_blocking_as_the_store_inside_unless_told_otherwise(inner: MemoryStore) -> None:
    assert FaultyStore(inner).blocking is False
    assert FaultyStore(inner, blocking=True).blocking is True


def test_a_frozen_clock_moves_only_when_it_is_moved_and_speaks_utc() -> None:
    clock = FrozenClock(datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == clock.now() == datetime(2026, 5, 1, 10, tzinfo=UTC)
    assert clock.now().tzinfo is UTC
    assert clock.advance(1.5) == clock.now() == datetime(2026, 5, 1, 10, 0, 1, 500_000, tzinfo=UTC)
    clock.advance(timedelta(hours=-1))
    assert clock.now().hour == 9
    clock.set(datetime(2027, 1, 1, tzinfo=UTC))
    assert clock.now().year == 2027


def test_a_clock_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        FrozenClock(datetime(2026, 1, 1))  # noqa: DTZ001
