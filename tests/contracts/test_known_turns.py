"""What a process remembers of answered turns is never more than what stands in the database."""

import gc
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perdure.middleware.persistence.stores.known_turns import OF_A_TURN
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Turn, Window
from perdure.testing.turns import a_turn, answered

WIDE = Window(turns=10, tokens=100_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "perdure.db")) as store:
        yield store


def keep(store: SqliteStore, *prompts: str) -> None:
    for prompt in prompts:
        store.finish(answered(a_turn(prompt, continuation_id="c"), prompt.upper()))


def history(store: SqliteStore) -> list[str]:
    return [turn.prompt for turn in store.begin(a_turn("now", continuation_id="c"), WIDE).history]


def test_a_history_holds_what_another_process_changed_meanwhile(store: SqliteStore) -> None:
    keep(store, "one", "two", "three", "four")
    assert history(store) == history(store) == ["one", "two", "three", "four"]
    with closing(sqlite3.connect(store.path, isolation_level=None)) as another:
        another.execute("UPDATE chat_messages SET content = 'gone' WHERE content = 'two'")
        another.execute("DELETE FROM chat_messages WHERE turn_seq = 3")
    assert history(store) == ["one", "gone", "four"]


def test_a_turn_that_is_answered_after_later_ones_is_in_the_next_history(store: SqliteStore) -> None:
    slow = a_turn("slow", continuation_id="c")
    store.begin(slow, WIDE)
    keep(store, "fast")
    assert history(store) == ["fast"]
    store.finish(answered(slow, "SLOW"))
    assert history(store) == ["slow", "fast"]


def test_a_content_that_is_known_is_not_read_again(store: SqliteStore) -> None:
    keep(store, *"abcdefgh")
    history(store)
    read: list[str] = []
    store._writer.write(lambda connection: connection.set_trace_callback(read.append), durable=False)
    assert history(store) == list("abcdefgh")
    assert [statement for statement in read if "AS prompt_body" in statement] == []
    keep(store, "i")
    assert history(store) == list("abcdefghi")
    assert len([statement for statement in read if "AS prompt_body" in statement]) == 1


def test_small_turns_are_counted_for_more_than_their_texts(store: SqliteStore) -> None:
    keep(store, "a", "b", "c")
    assert history(store) == ["a", "b", "c"]
    read = store._known._characters
    assert read >= 3 * OF_A_TURN
    turn = a_turn("d", continuation_id="c")
    store.begin(turn, WIDE)
    store.finish(answered(turn, "D"))  # What was written here is not read again.
    assert store._known._characters >= read + OF_A_TURN


def test_what_is_deleted_is_in_no_memory_any_more(store: SqliteStore) -> None:
    def remembered() -> list[str]:
        gc.collect()
        return [
            turn.prompt for turn in gc.get_objects() if isinstance(turn, Turn) and turn.prompt == "a secret of mine"
        ]

    keep(store, "a secret of mine")
    assert history(store) == ["a secret of mine"]
    assert remembered()
    store.delete("alice", "c")
    assert remembered() == []


def test_whoever_changes_a_history_changes_nobody_elses(store: SqliteStore) -> None:
    keep(store, "one")
    mine: Turn = store.begin(a_turn("q", continuation_id="c"), WIDE).history[0]
    mine.arguments["prompt"] = "changed"
    assert mine.answer is not None
    mine.answer.result["content"].clear()
    (again,) = store.begin(a_turn("q", continuation_id="c"), WIDE).history
    assert again == store.turns("alice", "c", limit=1)[0]
