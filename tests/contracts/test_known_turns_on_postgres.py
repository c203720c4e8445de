"""What a process remembers of turns in Postgres is never more than what stands there, and does not travel again."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from conftest import MakeDatabase

from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Json, Window
from perdure.testing.clocks import FrozenClock
from perdure.testing.turns import a_turn, answered

WIDE = Window(turns=10, tokens=100_000)


class Overheard(PostgresFunctions):
    """Real calls, and what each beginning was told of the history before it."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=30.0, max_connections=2)
        self.histories: list[list[Json]] = []

    def call(self, function: str, arguments: Mapping[str, Json], **how: Any) -> Json:
        reply = super().call(function, arguments, **how)
        if function == "begin_turns":
            self.histories += [turn["history"] for turn in reply["turns"]]
        return reply


@pytest.fixture(scope="module")
def url(make_database: MakeDatabase) -> str:
    return make_database()


@pytest.fixture
def heard(url: str) -> Overheard:
    return Overheard(url)


@pytest.fixture
def store(url: str, heard: Overheard) -> Iterator[SqlFunctionStore]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("delete from chat_forks; delete from chat_sessions")
    store = SqlFunctionStore(heard)
    yield store
    store.close()


@pytest.fixture
def another(url: str) -> Iterator[PostgresStore]:
    """Of another process, as far as this one can tell."""
    store = PostgresStore(url)
    yield store
    store.close()


def keep(store: SqlFunctionStore, *prompts: str, name: str = "c") -> None:
    for prompt in prompts:
        turn = a_turn(prompt, continuation_id=name)
        place = store.begin(turn, WIDE).place
        store.finish(answered(replace(turn, place=place), prompt.upper()))


def history(store: SqlFunctionStore, name: str = "c") -> list[str]:
    return [
        f"{turn.prompt} {turn.answer.text if turn.answer else ''}"
        for turn in store.begin(a_turn("now", continuation_id=name), WIDE).history
    ]


def by_hand(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute(statement.encode()).rowcount > 0


def test_a_turn_that_is_known_does_not_travel_again(store: SqlFunctionStore, heard: Overheard) -> None:
    keep(store, "one", "two")
    assert history(store) == ["one ONE", "two TWO"]
    (known, line) = heard.histories[-1]
    assert (known, line["prompt"], line["answer"]) == (1, "two", "TWO")
    keep(store, "three")
    assert heard.histories[-1] == [1, 2]
    assert history(store) == history(store) == ["one ONE", "two TWO", "three THREE"]
    assert heard.histories[-1] == [1, 2, 4]


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        ("update chat_messages set content = 'edited' where content = 'one'", ["edited ONE", "two TWO"]),
        ("update chat_messages set content = 'edited' where content = 'TWO'", ["one ONE", "two edited"]),
        ("update chat_messages set outcome = 'failed' where content = 'ONE'", ["two TWO"]),
        ("delete from chat_messages where turn_seq = 2", ["one ONE"]),
        ("delete from chat_messages where content = 'two'", ["one ONE"]),
    ],
)
def test_what_was_changed_by_hand_is_seen_at_once(
    store: SqlFunctionStore, url: str, edit: str, found: list[str]
) -> None:
    keep(store, "one", "two")
    assert history(store) == ["one ONE", "two TWO"]
    by_hand(url, edit)
    assert history(store) == found


def test_an_edit_of_one_turn_makes_only_that_turn_travel(store: SqlFunctionStore, heard: Overheard, url: str) -> None:
    keep(store, "one", "two")
    history(store)
    by_hand(url, "update chat_messages set content = 'edited' where content = 'one'")
    history(store)
    (line, known) = heard.histories[-1]
    assert (line["prompt"], known) == ("edited", 2)


def test_a_turn_that_another_process_answers_late_stands_in_the_next_history(
    store: SqlFunctionStore, another: PostgresStore
) -> None:
    slow = a_turn("slow", continuation_id="c")
    slow = replace(slow, place=another.begin(slow, WIDE).place)
    keep(store, "fast")
    assert history(store) == ["fast FAST"]
    another.finish(answered(slow, "SLOW"))
    assert history(store) == ["slow SLOW", "fast FAST"]


def test_a_conversation_that_was_deleted_and_made_anew_by_another_process_has_nothing_of_the_old_one(
    store: SqlFunctionStore, another: PostgresStore
) -> None:
    keep(store, "one", "two")
    assert history(store) == ["one ONE", "two TWO"]
    another.delete("alice", "c")
    assert history(store) == []
    keep(another, "other")
    assert history(store) == ["other OTHER"]


def test_a_conversation_that_expired_and_was_made_anew_has_nothing_of_the_old_one(heard: Overheard) -> None:
    clock = FrozenClock()
    store = SqlFunctionStore(heard, clock)
    brief = replace(a_turn("brief", continuation_id="expires"), expire_after=timedelta(hours=1))
    place = store.begin(brief, WIDE).place
    store.finish(answered(replace(brief, place=place), "BRIEF"))
    assert history(store, "expires") == ["brief BRIEF"]
    clock.advance(timedelta(hours=2))
    begun = store.begin(a_turn("anew", continuation_id="expires"), WIDE)
    assert (begun.place, list(begun.history)) == (1, [])
    store.close()


def test_a_fork_has_what_it_shares_and_its_own(store: SqlFunctionStore, heard: Overheard) -> None:
    keep(store, "one", "two", "three")
    history(store)
    store.fork("alice", "c", 2, "f")
    assert history(store, "f") == ["one ONE", "two TWO"]
    keep(store, "of the fork", name="f")
    store.fork("alice", "f", 4, "g")
    keep(store, "of its fork", name="g")
    assert history(store, "f") == ["one ONE", "two TWO", "of the fork OF THE FORK"]
    assert history(store, "g") == ["one ONE", "two TWO", "of the fork OF THE FORK", "of its fork OF ITS FORK"]
    assert history(store, "g") == ["one ONE", "two TWO", "of the fork OF THE FORK", "of its fork OF ITS FORK"]
    assert heard.histories[-1] == [1, 2, 4, 5]
    assert len(history(store)) == 3


def test_the_window_is_as_wide_as_it_is_asked_to_be_whatever_is_known(store: SqlFunctionStore) -> None:
    keep(store, "one", "two", "three")
    history(store)

    def told(window: Window) -> list[str]:
        return [turn.prompt for turn in store.begin(a_turn("now", continuation_id="c"), window).history]

    assert told(Window(turns=2, tokens=1000)) == ["two", "three"]
    assert told(Window(turns=10, tokens=1000)) == ["one", "two", "three"]
    assert told(Window(turns=10, tokens=10)) == ["three"]
    assert told(Window(turns=0, tokens=1000)) == []
