"""The index of words is kept up beside the turns, is emptied of what is gone, and is never half of anything."""

import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perdure.middleware.persistence.question import question_of
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.stores import search_upkeep
from perdure.middleware.persistence.stores.sqlite import SqliteStore, kept_index
from perdure.middleware.persistence.stores.sqlite.search_file import SearchFile, SearchFileReplaced
from perdure.middleware.persistence.turn import Window
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn, answered

_NOTHING_KEPT_UP = 1 << 30


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
    """Its index is brought up to date after every fourth turn, three turns at a time."""
    monkeypatch.setattr(search_upkeep, "_WORTH_IT", 4)
    monkeypatch.setattr(kept_index, "_AT_ONCE", 3)
    monkeypatch.setattr(kept_index.KeptSearchIndex, "rest", 0)
    with closing(SqliteStore(tmp_path / "perdure.db", FrozenClock())) as store:
        yield store


@pytest.fixture
def by_hand(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> SqliteStore:
    """Its index is brought up to date by who searches, or by the test."""
    monkeypatch.setattr(search_upkeep, "_WORTH_IT", _NOTHING_KEPT_UP)
    return store


def test_who_never_searches_gets_no_index(store: SqliteStore) -> None:
    told(store, 20)
    assert not store._index.path.exists()
    assert not kept_up_by()


def test_turns_are_in_the_index_before_the_next_search(store: SqliteStore) -> None:
    told(store, 1)
    searched(store)
    told(store, 20)
    wait_until(lambda: indexed(store) >= 1 + 20 - 3)  # three are not worth it yet
    wait_until(lambda: not kept_up_by())


def test_an_index_that_was_emptied_is_filled_again(store: SqliteStore) -> None:
    told(store, 20)
    searched(store)
    store.delete("alice", "c")
    assert indexed(store) == 0
    told(store, 4, "d")
    wait_until(lambda: indexed(store) == 4)


def test_filled_by_and_by_it_finds_what_it_finds_at_once(by_hand: SqliteStore) -> None:
    store = by_hand
    told(store, 7)
    late = [a_turn(f"needle, late {number}", continuation_id="c") for number in range(3)]
    for turn in late:
        store.begin(turn, Window(0, 0))
    store.fork("alice", "c", 5, "fork")
    store.fork("alice", "c", 5, "idle")
    told(store, 3, "fork")
    told(store, 2, "d")
    grown = []
    while store._index.add(2, wait_seconds=1):
        grown.append(indexed(store))
    assert grown == [2, 4, 6, 7, 7, 9, 11, 12]  # two at a time, and three that have no answer yet
    for turn in late[:2]:
        store.finish(answered(turn, "secretword"))
    told(store, 2)
    while store._index.add(1, wait_seconds=1):
        pass
    by_and_by = [searched(store, words) for words in ("needle", "secretword", "tool:chat", "secretword in:fork")]
    store._index.path.unlink()
    assert [len(found) for found in by_and_by] == [17, 16, 17, 8]
    assert [
        searched(store, words) for words in ("needle", "secretword", "tool:chat", "secretword in:fork")
    ] == by_and_by


def test_a_fault_amid_a_batch_leaves_none_of_it(by_hand: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    told(by_hand, 4)
    searched(by_hand)
    told(by_hand, 4)
    with monkeypatch.context() as broken:
        broken.setattr(by_hand._index, "_sql", by_hand._index._sql | {"note_places": "no SQL"})
        with pytest.raises(sqlite3.OperationalError):
            by_hand._index.add(100, wait_seconds=1)
    assert indexed(by_hand) == 4
    assert len(searched(by_hand, "secretword")) == 8


def test_a_process_that_is_killed_amid_a_batch_leaves_none_of_it(by_hand: SqliteStore) -> None:
    told(by_hand, 4)
    searched(by_hand)
    told(by_hand, 4)
    program = f"""
import os, signal
from pathlib import Path
from perdure.middleware.persistence.stores.sqlite.search_index import SearchIndex
index = SearchIndex(Path({str(by_hand.path)!r}))
class Killed(dict):
    def __getitem__(self, name):
        if name == "note_places":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(name)
index._sql = Killed(index._sql)
index.add(100, wait_seconds=1)
"""
    ran = subprocess.run([sys.executable, "-c", program], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert len(searched(by_hand, "secretword")) == 8
    assert indexed(by_hand) == 8


def test_who_deletes_waits_for_a_batch_and_then_nothing_of_it_stays(by_hand: SqliteStore) -> None:
    told(by_hand, 4)
    searched(by_hand)
    deletes = threading.Thread(target=by_hand.delete, args=("alice", "c"))
    file = SearchFile(by_hand._index.path, by_hand.path)
    with file.opened() as index, file.opened() as too_late:
        with index.writing():
            index.connection.execute("UPDATE turns SET tool = 'other'")
            deletes.start()
            deletes.join(0.2)
            assert deletes.is_alive(), "the file goes while somebody writes to it"
        deletes.join(10)
        with pytest.raises(SearchFileReplaced), too_late.writing():
            pass
    assert b"secretword" not in by_hand._index.path.read_bytes()
    assert searched(by_hand) == []


def test_another_thread_that_opens_the_index_gives_nobody_elses_lock_away(by_hand: SqliteStore) -> None:
    told(by_hand, 1)
    searched(by_hand)
    file = SearchFile(by_hand._index.path, by_hand.path)
    program = f"import sqlite3; sqlite3.connect({str(file.path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    with file.opened() as index, index.writing(), file.opened():
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "database is locked" in ran.stderr


def test_closing_waits_for_no_rest(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_index.KeptSearchIndex, "rest", 1_000_000)
    told(store, 1)
    searched(store)
    told(store, 8)
    wait_until(lambda: indexed(store) == 4)
    store.close()
    assert not kept_up_by()
    assert len(searched(store, "secretword")) == 9


def test_a_fault_costs_no_turn_and_is_said_once_a_minute(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried, add = [], store._index.add
    monkeypatch.setattr(store._index, "add", lambda *args, **named: tried.append(args) or add(*args, **named))
    caplog.set_level("DEBUG", "perdure")
    store._index.path.mkdir(parents=True)
    told(store, 4)
    wait_until(lambda: not kept_up_by())
    told(store, 8)
    assert len(store.turns("alice", "c")) == 12
    assert len(tried) == 1, "it is tried again at once"
    assert [record.message.split(":")[1].strip() for record in caplog.records] == ["search.index_not_kept_up"]


def test_a_forked_child_keeps_the_index_up_for_what_it_writes(store: SqliteStore) -> None:
    told(store, 1)
    searched(store)
    told(store, 4)
    wait_until(lambda: indexed(store) >= 4)

    def child() -> None:
        told(store, 4, "child")
        wait_until(lambda: indexed(store) >= 8)  # at the fourth since the last time, be it the child's third

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_an_index_of_an_older_perdure_is_made_again(by_hand: SqliteStore) -> None:
    told(by_hand, 2)
    searched(by_hand)
    with closing(sqlite3.connect(by_hand._index.path)) as connection:
        connection.executescript("DROP TABLE turns; PRAGMA user_version = 1")
    assert len(searched(by_hand)) == 2


def test_a_message_is_searched_up_to_a_hundred_thousand_characters(by_hand: SqliteStore) -> None:
    """In letters of two bytes each."""
    for number, text in enumerate(("я" * 99_990 + " early", "я" * 99_990 + " much later")):
        by_hand.finish(answered(a_turn(f"x {number}", continuation_id="c"), text))
    assert len(searched(by_hand, "early")) == 1
    assert len(searched(by_hand, "much")) == 1
    assert searched(by_hand, "later") == []


def test_words_are_added_in_the_order_in_which_they_are_read(by_hand: SqliteStore) -> None:
    """Sorting all texts first took a quarter of the time."""
    told(by_hand, 1)
    searched(by_hand)
    sql = named_queries("sqlite/search_index.sql")
    with SearchFile(by_hand._index.path, by_hand.path).opened() as index:
        index.connection.execute(sql["make_batch"])
        plan = index.connection.execute(f"EXPLAIN QUERY PLAN {sql['add_new_words']}", {"searched": 1}).fetchall()
    assert plan
    assert not any("TEMP B-TREE" in line["detail"] for line in plan)


def told(store: SqliteStore, turns: int, continuation_id: str = "c") -> None:
    for number in range(turns):
        store.finish(answered(a_turn(f"needle {number}", continuation_id=continuation_id), "secretword"))


def searched(store: SqliteStore, words: str = "needle") -> list[tuple[str, int, int]]:
    hits = store.search(question_of(words, FrozenClock().now()), limit=1000)
    return [(hit.continuation_id, hit.place, hit.part) for hit in hits]


def indexed(store: SqliteStore) -> int:
    with closing(sqlite3.connect(store._index.path)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM turns WHERE answered_at IS NOT NULL").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # It was emptied.


def kept_up_by() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "perdure-search"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.005)
