"""Removing takes several steps in SQLite: others write between them, what is interrupted is ended by the next purge."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.middleware.persistence.question import question_of
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.upkeep import Removed
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn, answered

Step = Callable[[], None]


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

    def counting(work: Callable[..., Any]) -> Any:
        result = write(work)
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
