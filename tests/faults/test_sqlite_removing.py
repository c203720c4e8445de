"""Removing takes several steps in SQLite: others write between them, what is interrupted is ended by the next purge."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.middleware.persistence.question import question_of
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.upkeep import Removed
from perdure.testing import FrozenClock
from perdure.testing.turns import a_file, a_turn, answered

Step = Callable[[], None]

TABLES = ("chat_sessions", "chat_messages", "chat_files", "chat_forks")


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def store(tmp_path: Path, clock: FrozenClock) -> SqliteStore:
    return SqliteStore(tmp_path / "perdure.db", clock)


@pytest.fixture
def other(store: SqliteStore, clock: FrozenClock) -> SqliteStore:
    """As another process would have it."""
    return SqliteStore(store.path, clock)


def told(store: SqliteStore, turns: int, continuation_id: str = "c", **changes: Any) -> None:
    for number in range(turns):
        store.finish(answered(a_turn(f"needle {number}", continuation_id=continuation_id, **changes), "secretword"))


def between_steps(store: SqliteStore, monkeypatch: pytest.MonkeyPatch, after: int, step: Step) -> list[int]:
    """Have `step` done once, after so many transactions of a removal. Returns a list that tells how many there were."""
    write, counted = store._write, [0]

    def counting(work: Callable[..., Any], **how: Any) -> Any:
        result = write(work, **how)
        counted[0] += 1
        if counted[0] == after:
            step()
        return result

    monkeypatch.setattr(store, "_write", counting)
    return counted


def test_others_write_between_the_steps(
    store: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(store, 250)
    counted = between_steps(store, monkeypatch, 3, lambda: told(other, 1, "elsewhere"))
    assert store.delete("alice", "c").turns == 250
    assert counted[0] > 4, "a long conversation goes in one transaction"
    assert [line.continuation_id for line in store.conversations("alice")] == ["elsewhere"]


def test_what_goes_costs_no_more_among_many_others(tmp_path: Path) -> None:
    """In steps of SQLite's own machine: none goes through the messages of others."""
    steps = [0]

    def counted(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(*arguments, **named)
        connection.set_progress_handler(lambda: steps.__setitem__(0, steps[0] + 1), 100)
        return connection

    found = []
    for others in (1, 60):
        store = SqliteStore(tmp_path / f"{others}.db", FrozenClock(), connect=counted)
        for number in range(others):
            told(store, 20, f"other {number}")
        told(store, 5)
        steps[0] = 0
        assert store.delete("alice", "c") == Removed(conversations=1, turns=5)
        found.append(steps[0])
    assert 0 < found[1] < found[0] * 1.5


def test_nothing_of_what_goes_is_left_and_foreign_keys_are_looked_up_again(store: SqliteStore) -> None:
    told(store, 3, files=(a_file("alice", "a.txt", "text"),))
    told(store, 3, "other")
    store.fork("alice", "c", 2, "fork")
    told(store, 1, "fork")
    for name in ("fork", "c"):
        store.delete("alice", name)
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        left = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES]
    assert left == [1, 6, 0, 0]
    orphan = f"INSERT INTO chat_files VALUES (99, 'a', 1, 't', 'u', 'b', 'k', '{0:064}', 1, 'x/y', 'now')"
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        store._writer.write(lambda connection: connection.execute(orphan), durable=True)


def test_who_goes_alone_takes_nobody_along(store: SqliteStore) -> None:
    told(store, 1)
    together: list[tuple[int, bool]] = []

    def look(connection: sqlite3.Connection) -> None:
        (on,) = connection.execute("PRAGMA foreign_keys").fetchone()
        together.append((threading.get_ident(), bool(on)))

    with ThreadPoolExecutor(16) as pool:
        alone = [pool.submit(store._writer.write_alone, look) for _ in range(20)]
        others = [pool.submit(store._writer.write, look, durable=True) for _ in range(200)]
        for one in (*alone, *others):
            one.result()
    assert [on for _, on in together].count(False) == 20
    assert len(together) == 220


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_what_is_interrupted_the_next_purge_ends(
    store: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    told(store, 150)
    between_steps(store, monkeypatch, after, killed)
    with pytest.raises(KeyboardInterrupt):
        store.delete("alice", "c")
    assert other.conversations("alice") == other.turns("alice", "c") == []
    assert other.purge().conversations == 1
    assert other.purge() == Removed()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_number_that_another_conversation_was_given_meanwhile_is_let_alone(
    store: SqliteStore, other: SqliteStore, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def overtake() -> None:
        other.purge()
        told(other, 3, "new")

    told(store, 2, expire_after=timedelta(days=1))
    clock.advance(timedelta(days=1))
    between_steps(store, monkeypatch, after, overtake)
    store.purge()
    assert len(other.turns("alice", "new")) == 3


def test_no_word_of_what_is_gone_stays_in_a_file(store: SqliteStore, clock: FrozenClock) -> None:
    told(store, 3)
    told(store, 1, "stays")
    assert len(store.search(question_of("needle", clock.now()))) == 4
    index = store.path.with_name("perdure-search.db")
    assert b"secretword" in index.read_bytes()
    store.delete("alice", "c")
    assert b"secretword" not in index.read_bytes()
    store.delete("alice", "stays")
    store.close()  # which moves what is in the log to the database
    assert b"secretword" not in store.path.read_bytes()
