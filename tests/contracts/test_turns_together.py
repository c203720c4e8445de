"""Turns that begin or end at once in one process travel together, and none has anything to do with another's fate."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from conftest import MakeDatabase
from postgres.overheard import Overheard, locked

from perdure.errors import StoreTimeout, TurnConflict, TurnRefused
from perdure.middleware.persistence.stores import grouped_calls
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import BegunTurn, Turn, Window
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
OTHERS = 15


class Crowd:
    """Threads that call one store."""

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self.url = url
        self.heard = Overheard(url, timeout=timeout)
        self.store = SqlFunctionStore(self.heard)
        self.pool = ThreadPoolExecutor(64)

    def begin(self, *turns: Turn) -> "list[Future[BegunTurn]]":
        """Each in a thread of its own; they come while another call is under way, and wait for it."""
        return self._together(
            self.store._beginnings.called.grouped, [lambda turn=turn: self.store.begin(turn, WINDOW) for turn in turns]
        )

    def finish(self, *turns: Turn) -> "list[Future[Any]]":
        return self._together(
            self.store._endings.called.grouped, [lambda turn=turn: self.store.finish(turn) for turn in turns]
        )

    def _together(self, calls: grouped_calls.GroupedCalls, work: "list[Callable[[], Any]]") -> "list[Future[Any]]":
        with calls._lock:
            calls._under_way += 1
        futures = [self.pool.submit(one) for one in work]
        wait_until(lambda: len(calls._waiting) == len(work))
        with calls._lock:
            calls._pass_on()
        return futures

    def close(self) -> None:
        self.pool.shutdown()
        self.store.close()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture(scope="module")
def url(make_database: MakeDatabase) -> str:
    return make_database()


@pytest.fixture
def crowd(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    monkeypatch.setattr(grouped_calls, "_PATIENCE", 30.0)  # the threads start in their own time
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("delete from chat_sessions")
    made = Crowd(url)
    yield made
    made.close()


def one_for_each(count: int) -> list[Turn]:
    return [a_turn(f"q {number}", continuation_id=f"c {number}") for number in range(count)]


def placed(turns: list[Turn], begun: "list[Future[BegunTurn]]") -> list[Turn]:
    return [
        answered(replace(turn, place=one.result(30).place), turn.prompt) for turn, one in zip(turns, begun, strict=True)
    ]


def test_what_comes_at_once_is_one_call_and_each_has_its_own_answer(crowd: Crowd) -> None:
    for number in range(OTHERS):
        crowd.store.finish(answered(a_turn(f"before {number}", continuation_id=f"c {number}"), f"{number}"))
    crowd.heard.called.clear()
    turns = one_for_each(OTHERS)
    begun = crowd.begin(*turns)
    for number, one in enumerate(begun):
        (earlier,) = one.result(30).history
        assert (one.result().place, earlier.prompt) == (2, f"before {number}")
    ended = crowd.finish(*placed(turns, begun))
    assert [(one.result(30).place, one.result().continuation_id) for one in ended] == [
        (2, turn.continuation_id) for turn in turns
    ]
    assert crowd.heard.called == [("begin_turns", OTHERS), ("finish_turns", OTHERS)]
    for turn in turns:
        (kept,) = crowd.store.turns("alice", turn.continuation_id, after=1)
        assert (kept.prompt, kept.answer and kept.answer.text) == (turn.prompt, turn.prompt)


def test_turns_of_one_conversation_have_places_one_after_the_other(crowd: Crowd) -> None:
    turns = [a_turn(f"{number}", continuation_id="c") for number in range(OTHERS)]
    begun = crowd.begin(*turns)
    assert {one.result(30).place for one in begun} == set(range(1, OTHERS + 1))
    assert crowd.heard.called == [("begin_turns", OTHERS)]
    for one in crowd.finish(*placed(turns, begun)):
        one.result(30)
    kept = crowd.store.turns("alice", "c")
    assert [turn.place for turn in kept] == list(range(1, OTHERS + 1))
    assert all(turn.answer and turn.answer.text == turn.prompt for turn in kept)


def test_the_same_id_of_two_principals_is_two_conversations(crowd: Crowd) -> None:
    turns = [a_turn(who, continuation_id="shared", principal=who) for who in ("alice", "bob", "carol")]
    assert [one.result(30).place for one in crowd.begin(*turns)] == [1, 1, 1]
    for who in ("alice", "bob", "carol"):
        assert [turn.prompt for turn in crowd.store.turns(who, "shared")] == [who]


def test_one_that_the_database_cannot_hold_is_refused_alone(crowd: Crowd) -> None:
    bad = a_turn("bad", continuation_id="c", tool="a\0tool")
    *good, refused = crowd.begin(*one_for_each(OTHERS), bad)
    assert [one.result(30).place for one in good] == [1] * OTHERS
    with pytest.raises(TurnRefused):
        refused.result(30)
    assert crowd.heard.called[0] == ("begin_turns", OTHERS + 1)
    assert crowd.store.turns("alice", "c") == []


def test_one_whose_id_is_another_turns_is_refused_alone(crowd: Crowd) -> None:
    theirs = a_turn("theirs", continuation_id="c", principal="bob")
    crowd.store.begin(theirs, WINDOW)
    *good, refused = crowd.begin(*one_for_each(OTHERS), replace(theirs, principal="alice"))
    assert [one.result(30).place for one in good] == [1] * OTHERS
    with pytest.raises(TurnConflict):
        refused.result(30)
    assert crowd.store.turns("alice", "c") == []


def test_a_turn_that_comes_twice_at_once_has_one_place(crowd: Crowd) -> None:
    turn = a_turn("once", continuation_id="c")
    begun = crowd.begin(turn, turn, *one_for_each(3))
    assert [one.result(30).place for one in begun] == [1] * 5
    ending = answered(replace(turn, place=1), "yes")
    assert [one.result(30).place for one in crowd.finish(ending, ending)] == [1, 1]
    assert [kept.prompt for kept in crowd.store.turns("alice", "c")] == ["once"]


def test_one_whose_conversation_is_locked_keeps_nobody_waiting(crowd: Crowd, url: str) -> None:
    crowd.store.begin(a_turn("first", continuation_id="held"), WINDOW)
    with locked(url, "held"):
        *good, held = crowd.begin(*one_for_each(OTHERS), a_turn("second", continuation_id="held"))
        assert [one.result(30).place for one in good] == [1] * OTHERS
        assert not held.done()
    assert held.result(30).place == 2


def test_who_comes_while_another_call_hangs_waits_a_moment_and_goes_on(
    crowd: Crowd, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_calls, "_PATIENCE", 0.05)
    crowd.store.begin(a_turn("first", continuation_id="held"), WINDOW)
    with locked(url, "held"):
        hangs = crowd.pool.submit(crowd.store.begin, a_turn("second", continuation_id="held"), WINDOW)
        wait_until(lambda: len(crowd.heard.called) == 2)
        assert crowd.store.begin(a_turn("another", continuation_id="free"), WINDOW).place == 1
        assert not hangs.done()
    assert hangs.result(30).place == 2
    assert crowd.store._beginnings.called.grouped._under_way == 0


def test_each_has_its_own_deadline(url: str) -> None:
    crowd = Crowd(url, timeout=1.0)
    crowd.store.begin(a_turn("first", continuation_id="held"), WINDOW)
    with locked(url, "held"):
        waiting = [a_turn("late", continuation_id="held") for _ in range(4)]
        for one in [crowd.pool.submit(crowd.store.begin, turn, WINDOW) for turn in waiting]:
            with pytest.raises(StoreTimeout):
                one.result(30)
    assert crowd.store._beginnings.called.grouped._under_way == 0
    assert crowd.store.begin(a_turn("afterwards", continuation_id="after a while"), WINDOW).place == 1
    crowd.close()


def test_what_is_large_goes_alone(crowd: Crowd) -> None:
    long = a_turn("long " * 20_000, continuation_id="long")
    with crowd.store._beginnings.called.grouped._lock:
        crowd.store._beginnings.called.grouped._under_way += 1
    assert crowd.store.begin(long, WINDOW).place == 1
    assert crowd.heard.called == [("begin_turns", 1)]


def test_no_more_go_together_than_a_call_should_take(crowd: Crowd) -> None:
    turns = [a_turn("word " * 8_000, continuation_id=f"c {number}") for number in range(14)]
    assert [one.result(30).place for one in crowd.begin(*turns)] == [1] * 14
    assert [turns for _, turns in crowd.heard.called] == [6, 6, 2]


def test_a_turn_that_is_alone_is_two_calls_and_waits_for_nobody(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.store.begin(a_turn("the connection is there", continuation_id="c"), WINDOW)
    crowd.heard.called.clear()
    monkeypatch.setattr(threading, "Lock", None)  # as one that waits would make
    for number in range(3):
        turn = a_turn(f"{number}", continuation_id="c")
        begun = crowd.store.begin(turn, WINDOW)
        crowd.store.finish(answered(replace(turn, place=begun.place)))
    assert crowd.heard.called == [("begin_turns", 1), ("finish_turns", 1)] * 3
