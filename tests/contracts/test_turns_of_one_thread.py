"""Turns that one thread brings to a database are one call; whatever is wrong, all are told in one operation's time."""

import threading
import time
from collections.abc import Iterator, Sequence

import psycopg
import pytest
from conftest import MakeDatabase
from postgres.overheard import Overheard, locked

from perdure.errors import StoreMisconfigured, StoreTimeout, StoreUnavailable, TurnRefused
from perdure.middleware.persistence.ports import GroupingStore
from perdure.middleware.persistence.stores import grouped_calls
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import BegunTurn, Turn, Window
from perdure.testing.turns import a_file, a_turn, answered

WINDOW = Window(20, 8_000)


@pytest.fixture(scope="module")
def url(make_database: MakeDatabase) -> str:
    return make_database()


@pytest.fixture
def heard(url: str) -> Overheard:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("delete from chat_sessions")
    return Overheard(url)


@pytest.fixture
def store(heard: Overheard) -> Iterator[GroupingStore]:
    store = SqlFunctionStore(heard)
    yield store
    store.close()


def one_for_each(count: int, text: str = "q") -> list[Turn]:
    return [a_turn(f"{text} {number}", continuation_id=f"c {number}") for number in range(count)]


def begun(store: GroupingStore, turns: Sequence[Turn]) -> Sequence[BegunTurn | None]:
    return store.begin_together([(turn, WINDOW) for turn in turns])


def are_taken(replies: Sequence[object | None]) -> list[bool]:
    return [reply is not None for reply in replies]


def test_they_are_one_call_each_way(store: GroupingStore, heard: Overheard) -> None:
    turns = one_for_each(64)
    assert all(are_taken(begun(store, turns)))
    assert all(are_taken(store.finish_together([answered(turn.changed(place=1)) for turn in turns])))
    assert heard.called == [("begin_turns", 64), ("finish_turns", 64)]


def test_more_than_a_call_should_take_are_several(store: GroupingStore, heard: Overheard) -> None:
    assert all(are_taken(begun(store, one_for_each(70))))
    assert all(are_taken(begun(store, one_for_each(7, "word " * 10_000))))
    assert heard.called == [("begin_turns", 64), ("begin_turns", 6), ("begin_turns", 5), ("begin_turns", 2)]


def test_the_large_the_keyed_and_those_with_files_or_without_a_place_are_left_to_themselves(
    store: GroupingStore, heard: Overheard
) -> None:
    large, keyed = a_turn("large " * 20_000, continuation_id="large"), a_turn("keyed", continuation_id="keyed")
    keyed = keyed.changed(id=f"{keyed.id[:14]}5{keyed.id[15:]}")
    turns = [large, keyed, *one_for_each(2)]
    assert are_taken(begun(store, turns)) == [False, False, True, True]
    first, second = (answered(turn.changed(place=1)) for turn in turns[2:])
    with_file, unplaced = first.changed(files=(a_file("alice", "f", "1"),)), answered(one_for_each(1)[0])
    whole = answered(large.changed(place=1), large.prompt)
    assert are_taken(store.finish_together([with_file, unplaced, whole, second])) == [False, False, False, True]
    assert heard.called == [("begin_turns", 2), ("finish_turns", 1)]


def test_those_that_have_to_wait_go_with_what_others_bring_and_are_never_torn_apart(
    store: SqlFunctionStore, heard: Overheard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_calls, "_PATIENCE", 30.0)
    grouped = store._beginnings.called.grouped
    with grouped._lock:
        grouped._under_way += 1
    several = [one_for_each(3), one_for_each(60), one_for_each(2)]
    told: list[Sequence[BegunTurn | None]] = []
    threads = [threading.Thread(target=lambda turns=turns: told.append(begun(store, turns))) for turns in several]
    alone = threading.Thread(target=lambda: told.append([store.begin(a_turn("x", continuation_id="alone"), WINDOW)]))
    for number, thread in enumerate([*threads, alone]):
        thread.start()
        until = time.monotonic() + 30
        while len(grouped._waiting) <= number and time.monotonic() < until:
            time.sleep(0.001)
    with grouped._lock:
        grouped._pass_on()
    for thread in (*threads, alone):
        thread.join(30)
    assert sorted(len(one) for one in told if all(are_taken(one))) == [1, 2, 3, 60]
    assert heard.called == [("begin_turns", 63), ("begin_turns", 3)]


@pytest.mark.parametrize("how", ["a text that is refused", "a lock"])
def test_what_may_be_one_turns_own_is_told_of_none_and_each_is_asked_by_itself(
    store: GroupingStore, url: str, how: str
) -> None:
    store.begin(a_turn("first", continuation_id="held"), WINDOW)
    bad = a_turn("bad", continuation_id="held", tool="a\0tool" if how != "a lock" else "chat")
    with locked(url, "held" if how == "a lock" else "nothing"):
        turns = [*one_for_each(3), bad]
        assert not any(are_taken(begun(store, turns)))
        assert [store.begin(turn, WINDOW).place for turn in turns[:3]] == [1, 1, 1]
    if how != "a lock":
        with pytest.raises(TurnRefused):
            store.begin(bad, WINDOW)


@pytest.mark.parametrize(
    "trigger",
    [
        "raise exception 'over the quota'",
        "raise exception 'a damaged page' using errcode = 'XX001'",
        "perform pg_sleep(5)",  # until it is cancelled
    ],
)
def test_where_the_server_fails_at_one_of_them_the_others_are_begun(make_database: MakeDatabase, trigger: str) -> None:
    url = make_database()
    with psycopg.connect(url, autocommit=True) as operator:
        operator.execute(
            "create function object() returns trigger language plpgsql as"
            f" $$ begin if new.content = 'bad' then {trigger}; end if; return new; end $$"
        )
        operator.execute("create trigger object before insert on chat_messages for each row execute function object()")
    store = SqlFunctionStore(Overheard(f"{url}{'&' if '?' in url else '?'}options=-cstatement_timeout%3D500"))
    turns = [*one_for_each(3), a_turn("bad", continuation_id="bad")]
    assert not any(are_taken(begun(store, turns)))
    assert [store.begin(turn, WINDOW).place for turn in turns[:3]] == [1, 1, 1]
    with pytest.raises(StoreUnavailable):
        store.begin(turns[3], WINDOW)
    store.close()


def test_when_their_time_is_over_all_are_told_so_at_once(url: str) -> None:
    heard = Overheard(url, timeout=0.2)  # a lock is waited for a little longer
    store = SqlFunctionStore(heard)
    store.finish(answered(a_turn("first", continuation_id="held")))
    heard.called.clear()
    with locked(url, "held"), pytest.raises(StoreTimeout):
        begun(store, [*one_for_each(2), a_turn("second", continuation_id="held")])
    assert heard.called == [("begin_turns", 3)]
    store.close()


def test_a_server_that_restarted_is_asked_again_for_all_of_them(
    store: GroupingStore, heard: Overheard, url: str
) -> None:
    begun(store, one_for_each(2))
    with psycopg.connect(url, autocommit=True) as operator:
        operator.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name = 'perdure' and datname = current_database()"
        )
    heard.called.clear()
    assert all(are_taken(begun(store, one_for_each(5))))
    assert heard.called == [("begin_turns", 5)] * 2


def test_a_server_that_is_not_there_is_not_asked_for_each() -> None:
    heard = Overheard("postgresql://nobody@127.0.0.1:1/nothing")
    store = SqlFunctionStore(heard)
    with pytest.raises(StoreUnavailable) as raised:
        begun(store, one_for_each(5))
    assert not isinstance(raised.value, StoreTimeout | StoreMisconfigured)
    with pytest.raises(StoreUnavailable):
        store.finish_together([answered(turn.changed(place=1)) for turn in one_for_each(5)])
    assert heard.called == [("begin_turns", 5)] * 2 + [("finish_turns", 5)] * 2


def test_those_of_a_second_call_that_fails_are_asked_by_themselves(store: GroupingStore, heard: Overheard) -> None:
    def fail_from_the_second_on() -> None:
        if len(heard.called) > 1:
            raise StoreUnavailable("The database is away.")

    heard.before = fail_from_the_second_on
    assert are_taken(begun(store, one_for_each(70))) == [True] * 64 + [False] * 6


def test_a_database_without_the_functions_is_asked_once_in_a_while(make_database: MakeDatabase) -> None:
    older = make_database()
    with psycopg.connect(older, autocommit=True) as connection:
        connection.execute("drop function begin_turns, finish_turns")
    heard = Overheard(older)
    store = SqlFunctionStore(heard)
    for _ in range(2):
        turns = one_for_each(3)
        assert not any(are_taken(begun(store, turns)))
        endings = [answered(turn.changed(place=store.begin(turn, WINDOW).place), turn.prompt) for turn in turns]
        assert not any(are_taken(store.finish_together(endings)))
        assert {store.finish(ending).continuation_id for ending in endings} == {"c 0", "c 1", "c 2"}
    functions = [function for function, _ in heard.called]
    assert (functions.count("begin_turns"), functions.count("finish_turns")) == (1, 1)
    store.close()
