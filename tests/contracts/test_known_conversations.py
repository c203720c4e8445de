"""What a process knows of its conversations is what stands in the SQLite database, whoever else writes to that."""

import copy
import gc
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import ConversationFull, StoreUnavailable, TurnConflict
from perdure.middleware.persistence.copied_turns import shared
from perdure.middleware.persistence.history import History
from perdure.middleware.persistence.stores.known_turns import KnownTurn
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.stores.sqlite.known_conversations import KnownConversation
from perdure.middleware.persistence.stores.sqlite.written_rows import prompt_row
from perdure.middleware.persistence.turn import Answer, BegunTurn, FinishedTurn, Outcome, Turn, Window
from perdure.testing.clocks import FrozenClock
from perdure.testing.turns import a_turn, answered, ended

WIDE = Window(turns=10, tokens=100_000)


class Colour(StrEnum):
    RED = "red"


def nested(levels: int) -> Any:
    return {"in": nested(levels - 1)} if levels else []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "perdure.db")) as store:
        yield store


@contextmanager
def by_hand(store: SqliteStore) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        yield connection


def say(store: SqliteStore, prompt: str, **changes: Any) -> FinishedTurn:
    """Begun, and ended."""
    turn = a_turn(prompt, continuation_id="c", **changes)
    store.begin(turn, WIDE)
    return store.finish(answered(turn, prompt.upper()))


def begin(store: SqliteStore, window: Window = WIDE, **changes: Any) -> BegunTurn:
    return store.begin(a_turn("now", continuation_id="c", **changes), window)


def prompts(begun: BegunTurn) -> list[str]:
    return [turn.prompt for turn in begun.history]


def test_a_turn_takes_two_statements_and_its_end_one(store: SqliteStore) -> None:
    for number in range(3):
        say(store, f"{number}")
    done: list[str] = []
    store._writer.write(lambda connection: connection.set_trace_callback(done.append), durable=False)
    done.clear()
    say(store, "3")
    kinds = [statement.split()[0] for statement in done if not statement.startswith("PRAGMA")]
    assert kinds == ["BEGIN", "INSERT", "UPDATE", "COMMIT", "BEGIN", "INSERT", "COMMIT"]
    done.clear()
    assert prompts(begin(store)) == ["0", "1", "2", "3"]
    assert not any(statement.startswith("SELECT") for statement in done)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": [None, True, -0.0, 1e300, 2**70]},
        (1, 2),
        {"a": {1: "a number as a name"}},
        {"colour": Colour.RED},
        {Colour.RED: 1},
        "\ud83d\ude00 two surrogates that make one character",
        "\udc00 one alone",
        "with a \0 in it",
        "a smile: \N{GRINNING FACE}",
        nested(60),
        "0123456789 the same as the text itself",
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_history_holds_a_turn_of_this_process_exactly_as_any_other_reads_it(store: SqliteStore, value: Any) -> None:
    begin(store)
    for number, text in enumerate((value if isinstance(value, str) else "a text of some length", "short")):
        turn = a_turn(
            text, continuation_id="c", arguments={"prompt": text, "value": value}, metadata={"number": number}
        )
        store.begin(turn, WIDE)
        store.finish(ended(turn, Outcome.ANSWERED, Answer(text=text, result={"text": text, "value": value})))
    history = list(begin(store).history)
    with closing(SqliteStore(store.path)) as another:
        assert history == [turn for turn in another.turns("alice", "c") if turn.outcome is Outcome.ANSWERED]


def test_what_a_tool_does_with_its_arguments_and_its_result_afterwards_is_in_no_history(store: SqliteStore) -> None:
    begin(store)
    arguments = {"prompt": "a", "list": [1]}
    turn = a_turn("a", continuation_id="c", arguments=arguments)
    store.begin(turn, WIDE)
    arguments["list"].append(2)  # type: ignore[attr-defined]
    done = answered(turn, "A")
    assert done.answer is not None
    store.finish(done)
    done.answer.result["content"].clear()
    (kept,) = begin(store).history
    assert kept.arguments == {"prompt": "a", "list": [1]}
    assert kept.answer == Answer(text="A", result={"content": [{"type": "text", "text": "A"}]})


def test_a_lease_that_was_renewed_is_the_one_that_a_history_shows(store: SqliteStore) -> None:
    begin(store)
    turn = a_turn("long", continuation_id="c")
    store.begin(turn, WIDE)
    later = turn.lease_until + timedelta(hours=1)
    store.renew({"alice": [turn.id]}, later)
    store.finish(answered(turn))
    assert [before.lease_until for before in begin(store).history] == [later]


def test_a_turn_that_somebody_deletes_while_its_tool_runs_is_kept_all_the_same(store: SqliteStore) -> None:
    say(store, "before")
    turn = a_turn("mine", continuation_id="c")
    assert store.begin(turn, WIDE).place == 2
    with by_hand(store) as connection:
        connection.execute("DELETE FROM chat_messages WHERE turn_id = ?", (turn.id,))
    assert store.finish(answered(turn)).place == 3
    assert [(kept.prompt, kept.place) for kept in store.turns("alice", "c")] == [("before", 1), ("mine", 3)]


def test_a_turn_that_another_process_ends_first_keeps_that_end(store: SqliteStore) -> None:
    begin(store)
    turn = a_turn("mine", continuation_id="c")
    store.begin(turn, WIDE)
    with closing(SqliteStore(store.path)) as another:
        another.finish(answered(turn, "theirs"))
    assert store.finish(ended(turn, Outcome.FAILED)).outcome is Outcome.ANSWERED
    assert [turn.answer and turn.answer.text for turn in begin(store).history] == ["theirs"]


def test_places_go_on_after_those_that_another_process_has_given(store: SqliteStore) -> None:
    with closing(SqliteStore(store.path)) as another:
        for place in (1, 3, 5):
            assert say(store, f"{place}").place == place
            assert say(another, f"{place + 1}").place == place + 1
    assert prompts(begin(store)) == ["1", "2", "3", "4", "5", "6"]


def test_a_conversation_that_another_process_has_deleted_begins_anew(store: SqliteStore) -> None:
    say(store, "gone")
    with closing(SqliteStore(store.path)) as another:
        another.delete("alice", "c")
    begun = begin(store)
    assert (begun.place, prompts(begun)) == (1, [])


def test_windows_of_several_sizes_on_one_conversation_each_hold_what_they_should(store: SqliteStore) -> None:
    windows = [Window(2, 1000), Window(5, 1000), Window(20, 1000), Window(5, 30), Window(8, 79), Window(3, 1000)]
    said = 8
    for number in range(said):
        say(store, f"{number}")
    with closing(SqliteStore(store.path)) as another:
        for window in [*windows, *reversed(windows)]:
            say(another, f"{said}")
            said += 1
            newest = min(window.turns, window.tokens // 10, said)
            assert prompts(begin(another, window)) == [f"{number}" for number in range(said - newest, said)]
            assert prompts(begin(store, window)) == [f"{number}" for number in range(said - newest, said)]


def test_turns_go_out_of_a_small_window_and_are_in_a_larger_one_all_the_same(store: SqliteStore) -> None:
    small = Window(2, 1000)
    for number in range(5):
        turn = a_turn(f"{number}", continuation_id="c")
        store.begin(turn, small)
        store.finish(answered(turn))
    assert prompts(begin(store, small)) == ["3", "4"]
    assert prompts(begin(store)) == ["0", "1", "2", "3", "4"]


def test_a_history_stays_as_it_was_while_its_conversation_goes_on(store: SqliteStore) -> None:
    small = Window(3, 1000)
    late = a_turn("late", continuation_id="c")
    histories: list[tuple[BegunTurn, list[str]]] = []
    for number in range(12):
        if number == 6:
            store.begin(late, small)
        if number == 8:
            store.finish(answered(late))
        turn = a_turn(f"{number}", continuation_id="c")
        begun = store.begin(turn, small)
        histories.append((begun, prompts(begun)))
        store.finish(answered(turn))
    said = [f"{number}" for number in range(12)]
    said.insert(6, "late")
    assert prompts(begin(store, small)) == said[-3:]
    for begun, at_first in histories:
        assert prompts(begun) == at_first == [turn.prompt for turn in shared(begun.history)]
    assert histories[7][1] == ["4", "5", "6"]
    assert histories[8][1] == ["late", "6", "7"]


def test_a_turn_that_says_nothing_but_a_text_is_known_by_two_objects_that_the_collector_follows(
    store: SqliteStore,
) -> None:
    say(store, "a text that is long enough to stand once")
    (known,) = shared(begin(store).history)
    gc.collect()
    followed: list[object] = [known]
    for item in followed:
        kept = [part for part in gc.get_referents(item) if gc.is_tracked(part) and not callable(part)]
        followed += [part for part in kept if not isinstance(part, (type, Outcome))]
    assert [type(item).__name__ for item in followed] == ["Turn", "TextAnswer"]


@pytest.mark.parametrize("handed_on", [copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_a_tool_may_copy_its_history_and_give_it_to_another_process(
    store: SqliteStore, handed_on: Callable[[History], History]
) -> None:
    for number in range(4):
        say(store, f"a text that is long enough, number {number}")
    given = History(begin(store, Window(turns=2, tokens=100_000)).history)
    there = handed_on(given)
    assert list(there) == list(given)
    assert there.transcript() == given.transcript()
    assert b"number 1" not in pickle.dumps(given), "what its window has not goes nowhere"


def test_nobody_else_ends_a_turn_that_is_known_here(store: SqliteStore) -> None:
    turn = a_turn("mine", continuation_id="c")
    store.begin(turn, WIDE)
    with pytest.raises(TurnConflict):
        store.finish(answered(turn.changed(principal="mallory")))
    assert store.finish(answered(turn)).outcome is Outcome.ANSWERED


def test_a_conversation_expires_and_is_full_as_if_nothing_were_known_of_it(store: SqliteStore) -> None:
    say(store, "one", expire_after=timedelta(hours=1))
    with pytest.raises(ConversationFull):
        begin(store, Window(10, 1000, last_place=1))
    assert prompts(begin(store, Window(10, 1000, last_place=2))) == ["one"]
    begin(store, expire_after=timedelta(microseconds=1))
    time.sleep(0.001)
    assert begin(store).place == 1


def test_an_id_that_may_not_be_adopted_is_not_adopted_because_it_is_known(store: SqliteStore) -> None:
    say(store, "chosen")
    begun = begin(store, adopt=False, fresh_id="fresh")
    assert (begun.continuation_id, begun.place) == ("fresh", 1)


def test_nothing_is_known_of_a_commit_that_was_taken_back(store: SqliteStore) -> None:
    say(store, "one")

    def begun_and_lost(connection: sqlite3.Connection) -> None:
        store._turns.begin(connection, [(prompt_row(a_turn("lost", continuation_id="c")), WIDE)])
        raise RuntimeError("as if the disk were full")

    with pytest.raises(RuntimeError):
        store._writer.write(begun_and_lost, durable=False)
    begun = begin(store)
    assert (begun.place, prompts(begun)) == (2, ["one"])


def together(store: SqliteStore, *works: Callable[[], object]) -> list[object]:
    """What each returned or raised; all were written in one commit."""
    everybody_waits = threading.Event()

    def outcome_of(work: Callable[[], object]) -> object:
        try:
            return work()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(works) + 1) as pool:
        leading = pool.submit(store._writer.write, lambda _: everybody_waits.wait(30), durable=False)
        outcomes = [pool.submit(outcome_of, work) for work in works]
        while len(store._writer._waiting) < len(works):
            time.sleep(0.001)
        everybody_waits.set()
        leading.result()
        return [outcome.result() for outcome in outcomes]


def test_turns_that_are_written_together_each_get_what_they_would_get_alone(store: SqliteStore) -> None:
    say(store, "one")
    before = [a_turn(f"before {number}", continuation_id="c") for number in range(3)]
    for turn in before:
        store.begin(turn, WIDE)
    new = [a_turn(f"new {number}", continuation_id="c") for number in range(3)]
    elsewhere = a_turn("elsewhere", continuation_id="d")
    outcomes = together(
        store,
        *(lambda turn=turn: store.begin(turn, WIDE) for turn in (*new, elsewhere)),
        *(lambda turn=turn: store.finish(answered(turn)) for turn in before),
    )
    begun, finished = outcomes[:3], outcomes[4:]
    assert all(isinstance(outcome, BegunTurn | FinishedTurn) for outcome in outcomes), outcomes
    assert sorted(outcome.place for outcome in begun) == [5, 6, 7]  # type: ignore[attr-defined]
    assert outcomes[3].place == 1  # type: ignore[attr-defined]
    assert [outcome.place for outcome in finished] == [2, 3, 4]  # type: ignore[attr-defined]
    assert [store.finish(answered(turn)).place for turn in new] == [outcome.place for outcome in begun]  # type: ignore[attr-defined]
    assert prompts(begin(store))[:4] == ["one", "before 0", "before 1", "before 2"]
    with closing(SqliteStore(store.path)) as another:
        assert list(begin(store).history) == list(begin(another).history)


def test_what_is_wrong_with_one_of_the_turns_that_are_written_together_is_not_the_others_fault(
    store: SqliteStore,
) -> None:
    say(store, "one")
    old = a_turn("old", continuation_id="c")
    store.begin(old, WIDE)
    twice = a_turn("twice", continuation_id="c")
    misused = Turn.changed(old, digest="another")
    full = Window(10, 1000, last_place=1)
    good = [a_turn(f"good {number}", continuation_id="c") for number in range(3)]
    outcomes = together(
        store,
        lambda: store.begin(misused, WIDE),
        lambda: store.finish(answered(misused)),
        lambda: store.begin(a_turn("too many", continuation_id="c"), full),
        lambda: store.begin(old, WIDE),
        *(lambda: store.begin(twice, WIDE) for _ in range(2)),
        *(lambda turn=turn: store.begin(turn, WIDE) for turn in good),
    )
    assert [type(outcome) for outcome in outcomes[:3]] == [TurnConflict, TurnConflict, ConversationFull]
    replayed, first, second, *begun = outcomes[3:]
    assert (replayed.place, replayed.replay) == (2, True)  # type: ignore[attr-defined]
    assert first.place == second.place  # type: ignore[attr-defined]
    assert {first.replay, second.replay} == {True, False}  # type: ignore[attr-defined]
    places = {turn.place for turn in (first, *begun)}  # type: ignore[attr-defined]
    assert places == {3, 4, 5, 6}
    assert [turn.place for turn in store.turns("alice", "c")] == [1, 2, 3, 4, 5, 6]


def test_a_turn_that_is_kept_afterwards_moves_the_end_of_its_conversation_for_those_after_it(tmp_path: Path) -> None:
    clock = FrozenClock()
    with closing(SqliteStore(tmp_path / "perdure.db", clock)) as store:
        say(store, "one")
        store.finish(answered(a_turn("two", continuation_id="c", expire_after=timedelta(seconds=1))))
        clock.advance(timedelta(seconds=2))
        assert begin(store).place == 1
        assert [turn.prompt for turn in store.turns("alice", "c")] == ["now"]


def test_a_history_is_never_of_another_conversation_that_has_got_the_same_number(store: SqliteStore) -> None:
    for number in range(3):
        say(store, f"{number}")
    with closing(SqliteStore(store.path)) as another, closing(SqliteStore(store.path)) as third:
        reading = another._histories._reading

        def is_late() -> Any:
            store.delete("alice", "c")
            for _ in range(4):
                say(third, "a secret of bob's", principal="bob")
            return reading()

        another._histories._reading = is_late
        assert prompts(begin(another)) == []


def test_turns_that_never_end_do_not_fill_the_memory_with_what_they_were_given(store: SqliteStore) -> None:
    begin(store, arguments={"prompt": "now", "document": "x" * 200_000})
    (intent,) = store._known._intents.values()
    assert intent.prompt is None


def test_turns_that_have_gone_out_of_a_window_are_let_go_of_and_counted_as_long_as_they_are_not() -> None:
    conversation = KnownConversation(("alice", "c"), 1, 0, {}, depth=4)
    for place in range(1, 50):
        turn = a_turn(f"{place}", continuation_id="c")
        conversation.answered(place, 10, KnownTurn(turn, 1000))
        kept = len(conversation._newest)
        assert (conversation.characters - KnownConversation(("", ""), 1, 0, {}, depth=4).characters) == 1000 * kept
        assert kept <= 4 + 2


def test_what_is_learned_or_forgotten_meanwhile_leaves_no_gap_in_a_history() -> None:
    class LearnsMeanwhile(list[Turn | None]):
        def __getitem__(self, at: Any) -> Any:
            found = super().__getitem__(at)
            if isinstance(at, slice):
                conversation.learn({1: KnownTurn(a_turn("one", continuation_id="c"), 3)})
            return found

    conversation = KnownConversation(("alice", "c"), 1, 1, {1: 10}, depth=10)
    conversation._turns = LearnsMeanwhile([None])
    known, _, turns = conversation.window(WIDE)
    assert (known, turns) == (None, [None])


def test_what_is_known_wrongly_stands_in_the_way_of_one_turn_and_no_more(store: SqliteStore) -> None:
    for number in range(3):
        say(store, f"{number}")
    known = store._known.of("alice", "c")
    assert known is not None
    known.last_place = 1
    with pytest.raises(StoreUnavailable):
        begin(store)
    assert prompts(begin(store)) == ["0", "1", "2"]
