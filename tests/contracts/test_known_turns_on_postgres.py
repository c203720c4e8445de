"""What a process remembers of turns in Postgres is never more than what stands there, and does not travel again."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from conftest import MakeDatabase

from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Answer, Json, Outcome, Turn, Window
from perdure.testing.clocks import FrozenClock
from perdure.testing.turns import a_turn, answered, ended

WIDE = Window(turns=10, tokens=100_000)

NEVER_ANSWERED = """
    insert into chat_messages (id, session_id, turn_id, turn_seq, part, role, content, user_id, tool, digest)
    select gen_random_uuid(), s.id, gen_random_uuid(), s.last_place + n, 0, 'user', 'q', s.user_id, 'chat', 'd'
      from chat_sessions s, generate_series(1, 200) n
"""


class Overheard(PostgresFunctions):
    """Real calls, and what each beginning was told of the history before it."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=30.0, max_connections=2)
        self.histories: list[Any] = []

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


def test_what_this_process_has_written_or_read_does_not_travel(store: SqlFunctionStore, heard: Overheard) -> None:
    keep(store, "one", "two")
    assert history(store) == ["one ONE", "two TWO"]
    keep(store, "three")
    assert history(store) == history(store) == ["one ONE", "two TWO", "three THREE"]
    assert heard.histories == [[], *[None] * 5]


def test_of_what_another_process_added_only_that_travels(
    store: SqlFunctionStore, another: PostgresStore, heard: Overheard
) -> None:
    keep(store, "one", "two")
    keep(another, "three")
    assert history(store) == ["one ONE", "two TWO", "three THREE"]
    (*known, line) = heard.histories[-1]
    assert (known, line["prompt"], line["answer"]) == ([1, 2], "three", "THREE")
    assert len(history(store)) == 3
    assert heard.histories[-1] is None


def test_a_turn_that_another_process_only_began_makes_nothing_travel_twice(
    store: SqlFunctionStore, another: PostgresStore, heard: Overheard
) -> None:
    keep(store, "one")
    another.begin(a_turn("of another", continuation_id="c"), WIDE)
    assert history(store) == history(store) == ["one ONE"]
    assert heard.histories[-2:] == [[1], None]


def test_a_turn_that_failed_here_makes_nothing_travel(store: SqlFunctionStore, heard: Overheard) -> None:
    keep(store, "one")
    bad = a_turn("bad", continuation_id="c")
    bad = replace(bad, place=store.begin(bad, WIDE).place)
    store.finish(ended(bad, Outcome.FAILED, Answer(text="no", error={"type": "ValueError", "message": "no"})))
    assert history(store) == ["one ONE"]
    assert heard.histories == [[], None, None]


def test_a_turn_that_is_answered_here_after_later_ones_travels_no_more_than_others(
    store: SqlFunctionStore, heard: Overheard
) -> None:
    slow = a_turn("slow", continuation_id="c")
    slow = replace(slow, place=store.begin(slow, WIDE).place)
    keep(store, "fast")
    store.finish(answered(slow, "SLOW"))
    assert history(store) == ["slow SLOW", "fast FAST"]
    assert heard.histories == [[], None, None]


def test_a_turn_that_is_known_from_its_writing_is_as_reading_gives_it(
    store: SqlFunctionStore, heard: Overheard
) -> None:
    east = timezone(timedelta(hours=5))
    turn = a_turn(
        "a question that stands in its arguments as well",
        continuation_id="c",
        arguments={"prompt": "a question that stands in its arguments as well", "n": [1, {"deep": -0.0}]},
        metadata={"protocol_version": "2026-07-28", "list": [1]},
        started_at=datetime(2026, 1, 1, 3, 0, 0, 7, tzinfo=east),
        lease_until=datetime(2026, 1, 1, 4, tzinfo=east),
        minted=True,
        fresh_id="fresh",
        after_place=1,
        deferred=True,
    )
    turn = replace(turn, place=store.begin(turn, WIDE).place)
    store.finish(answered(turn, "an answer with a é in it, and a \U0001f600"))
    (noted,) = store.begin(a_turn("now", continuation_id="c"), WIDE).history
    assert heard.histories == [[], None]
    (read,) = store.turns("alice", "c", limit=1)
    assert noted == read
    assert (noted.started_at.tzinfo, noted.lease_until.tzinfo) == (read.started_at.tzinfo, read.lease_until.tzinfo)


@pytest.mark.parametrize("text", ["a NUL \0", "a lone \ud800", "two \ud83d\ude00 side by side"])
def test_what_only_reading_tells_is_read(store: SqlFunctionStore, text: str) -> None:
    keep(store, text)
    (found,) = store.begin(a_turn("now", continuation_id="c"), WIDE).history
    assert found == store.turns("alice", "c", limit=1)[0]


def test_a_lease_that_was_renewed_is_not_remembered_as_it_was(store: SqlFunctionStore) -> None:
    turn = a_turn("long", continuation_id="c")
    turn = replace(turn, place=store.begin(turn, WIDE).place)
    until = turn.lease_until + timedelta(hours=1)
    store.renew({"alice": [turn.id]}, until)
    store.finish(answered(turn, "LONG"))
    (found,) = store.begin(a_turn("now", continuation_id="c"), WIDE).history
    assert found.lease_until == until


def test_what_a_tool_makes_of_its_arguments_afterwards_is_not_in_the_memory(store: SqlFunctionStore) -> None:
    turn = a_turn("q", continuation_id="c", arguments={"list": [1]}, metadata={"a": {"b": 1}})
    turn = replace(turn, place=store.begin(turn, WIDE).place)
    ending = answered(turn, "A")
    store.finish(ending)
    turn.arguments["list"].append(2)
    turn.metadata["a"]["b"] = 2
    assert ending.answer is not None
    ending.answer.result["content"].clear()
    (found,) = store.begin(a_turn("now", continuation_id="c"), WIDE).history
    assert (found.arguments, found.metadata) == ({"list": [1]}, {"a": {"b": 1}})
    assert found.answer is not None
    assert found.answer.result["content"] != []


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
    history(store)
    assert heard.histories[-1] is None


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


def test_where_more_turns_were_never_answered_than_should_be_compared_a_history_is_read(
    store: SqlFunctionStore, heard: Overheard, url: str
) -> None:
    keep(store, "one")
    by_hand(url, NEVER_ANSWERED)
    by_hand(url, "update chat_sessions set last_place = last_place + 200")
    assert history(store) == history(store) == ["one ONE"]
    assert heard.histories[-2:] == [[1], [1]]


def test_a_window_one_of_whose_prompts_was_deleted_is_as_the_database_says(store: SqlFunctionStore, url: str) -> None:
    narrow = Window(turns=2, tokens=1000)
    keep(store, "one", "two", "three")
    by_hand(url, "delete from chat_messages where content = 'two'")

    def told() -> list[str]:
        turn = a_turn("more", continuation_id="c")
        begun = store.begin(turn, narrow)
        store.finish(answered(replace(turn, place=begun.place), "MORE"))
        return [turn.prompt for turn in begun.history]

    assert [told(), told(), told()] == [["three"], ["three", "more"], ["more", "more"]]


@pytest.mark.parametrize("seed", [2, 10, 33])
def test_whatever_two_processes_do_each_is_told_what_stands_there(
    store: SqlFunctionStore, another: PostgresStore, url: str, seed: int
) -> None:
    """Turns that end late, fail, or never end; budgets by turns and by tokens; rows that somebody edits or deletes."""
    chance = random.Random(seed)
    windows = [Window(turns=chance.choice((1, 3, 5)), tokens=chance.choice((15, 40, 1000))) for _ in range(2)]
    running: list[Turn] = []
    for number in range(60):
        mine = store if chance.random() < 0.8 else another
        window = windows[chance.random() < 0.1]
        begun = a_turn(f"{number}", continuation_id="c")
        answer = mine.begin(begun, window)
        assert list(answer.history) == expected_history(another, answer.place, window), number
        running.append(replace(begun, place=answer.place))
        while running and chance.random() < 0.6:
            turn = running.pop(chance.randrange(len(running)))
            outcome = Outcome.ANSWERED if chance.random() < 0.8 else Outcome.FAILED
            mine.finish(
                ended(turn, outcome, Answer(text=f"answer {turn.prompt}"), tokens=chance.choice((0, 5, 10, 20)))
            )
        if chance.random() < 0.05:
            place = chance.randint(1, answer.place)
            edit = chance.choice(("update chat_messages set content = 'edited'", "delete from chat_messages"))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"{edit} where turn_seq = {place} and part = 1".encode())


def expected_history(store: PostgresStore, place: int, window: Window) -> list[Turn]:
    """By the rule, from all that stands there."""
    kept: list[Turn] = []
    spent = 0
    for turn in reversed(store.turns("alice", "c", limit=1000)):
        if turn.outcome is not Outcome.ANSWERED or (turn.place or 0) >= place:
            continue
        spent += turn.tokens
        if spent > window.tokens or len(kept) == window.turns:
            break
        kept.append(turn)
    return kept[::-1]
