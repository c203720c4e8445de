"""What is told of a spool that sends nothing just now, and what a call is told that finds it so."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from spool.conftest import MakeSpool, an_answered_turn, prompts

from perdure.errors import SpoolFull, TurnsWaiting
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.jobs import Job
from perdure.middleware.persistence.ports import Waiting
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.spool.database import SpoolDatabase
from perdure.middleware.persistence.spool.drainer import Drainer
from perdure.middleware.persistence.spool.spooled_files import SpooledFiles
from perdure.middleware.persistence.spool.spooled_turns import ConversationKey, SpooledTurns
from perdure.middleware.persistence.threads import Lane
from perdure.middleware.persistence.turn import Window
from perdure.testing import FaultyStore, FrozenClock
from perdure.testing.turns import a_file


@pytest.fixture(autouse=True)
def _nothing_is_sent_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Drainer, "wake", lambda _: None)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def database(spool: Spool, clock: FrozenClock) -> Iterator[SpoolDatabase]:
    """The same file, seen from the inside."""
    with closing(SpoolDatabase(spool.folder / "spool.db", clock)) as database:
        yield database


def turns_of(database: SpoolDatabase, destination: str = "here") -> SpooledTurns:
    return SpooledTurns(database, destination, lambda *_: None)


def files_of(database: SpoolDatabase, destination: str = "here") -> SpooledFiles:
    return SpooledFiles(database, destination, database.path.parent / "files", lambda *_: None)


def keep_file(files: SpooledFiles | Spool, tmp_path: Path, key: str, content: bytes = b"content") -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(content)
    if isinstance(files, Spool):
        files.keep_file(key, snapshot, media_type="text/plain")
    else:
        files.keep(key, snapshot, media_type="text/plain")


# ── for an operator ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_waits_is_told_for_each_destination(
    spool: Spool, database: SpoolDatabase, clock: FrozenClock, tmp_path: Path
) -> None:
    here, there = turns_of(database), turns_of(database, "there")
    for conversation in ("a", "b", "b", "c"):
        here.keep(an_answered_turn("x", conversation))
    here.quarantine(*here.next(ConversationKey("alice", "a")), "too long")
    clock.advance(60)
    keep_file(files_of(database), tmp_path, "one", b"1")
    keep_file(files_of(database), tmp_path, "two", b"22")
    first, _ = files_of(database).waiting()
    files_of(database).quarantine(first, "too large")
    there.keep(an_answered_turn("x"))
    clock.advance(60)
    keep_file(files_of(database, "elsewhere"), tmp_path, "three", b"333")
    assert spool.destination == "here"
    assert spool.status() == [
        Waiting("elsewhere", 0, 0, 0, 1, 3, 0, "2026-01-01T00:02:00+00:00"),
        Waiting("here", 3, 2, 1, 1, 3, 1, "2026-01-01T00:00:00+00:00"),
        Waiting("there", 1, 1, 0, 0, 0, 0, "2026-01-01T00:01:00+00:00"),
    ]


def test_what_is_set_apart_alone_has_no_oldest_that_waits(spool: Spool, database: SpoolDatabase) -> None:
    turns = turns_of(database)
    turns.keep(an_answered_turn("x"))
    turns.quarantine(*turns.next(ConversationKey("alice", "c")), "too long")
    assert spool.status() == [Waiting("here", 0, 0, 1, 0, 0, 0, None)]


def test_where_nothing_was_ever_kept_nothing_is_told_tried_or_made(spool: Spool) -> None:
    assert spool.status() == spool.quarantine() == spool.set_aside() == []
    assert spool.retry() == spool.discard("x") == spool.forget("alice") == spool.waiting("alice") == 0
    assert not spool.holds_file("key")
    spool.wake()
    spool.flush(0.0)
    spool.settle("alice", "c")
    assert not spool.folder.exists()


def test_who_is_forgotten_takes_along_the_files_that_nobody_else_waits_with(
    spool: Spool, database: SpoolDatabase, tmp_path: Path
) -> None:
    mine, shared = a_file("alice", "mine", "a"), a_file("alice", "shared", "b")
    for file in (mine, shared):
        keep_file(spool, tmp_path, file.key)
    keep_file(spool, tmp_path, "of nobody")
    turns_of(database).keep(an_answered_turn("x", "a", files=(mine, shared)))
    turns_of(database, "there").keep(an_answered_turn("x", "b", files=(shared,)))
    assert spool.waiting("alice") == 2
    assert spool.forget("alice", "a") == 1
    assert [spool.holds_file(key) for key in (mine.key, shared.key, "of nobody")] == [False, True, True]
    assert spool.names_file(shared.key)
    assert not spool.names_file(mine.key)
    assert spool.forget("alice") == 1
    assert not spool.holds_file(shared.key)
    assert spool.waiting("alice") == 0


# ── for a call ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("waiting", "sent"), [(8, True), (9, False)])
def test_a_call_sends_eight_turns_before_its_own_and_waits_for_no_more(
    spool: Spool, store: FaultyStore, waiting: int, sent: bool
) -> None:
    for number in range(waiting):
        spool.keep(an_answered_turn(f"{number}"))
    if sent:
        spool.settle("alice", "c")
        assert prompts(store.inner) == [f"{number}" for number in range(waiting)]
        return
    with pytest.raises(TurnsWaiting) as refused:
        spool.settle("alice", "c")
    assert refused.value.what == "More than 8 earlier turns of the conversation are being sent."
    assert refused.value.remedy == "none: wait."
    assert prompts(store.inner) == []
    spool.settle("alice", "another")


def test_a_call_waits_not_for_ever_for_whoever_sends_its_turns(
    make_spool: MakeSpool, database: SpoolDatabase, store: FaultyStore
) -> None:
    spool = make_spool(longest_settling=0.2)
    spool.keep(an_answered_turn("x"))
    with turns_of(database).leased(ConversationKey("alice", "c")):
        with pytest.raises(TurnsWaiting) as refused:
            spool.settle("alice", "c")
    assert refused.value.what == "Earlier turns of the conversation are being sent just now."
    assert refused.value.remedy == "none: wait."
    spool.settle("alice", "c")
    assert prompts(store.inner) == ["x"]


def test_a_call_does_not_wait_for_whoever_sends_its_turns_to_a_store_that_is_left_alone(
    make_spool: MakeSpool, database: SpoolDatabase
) -> None:
    breaker = Breaker(failures=1)
    spool = make_spool(longest_settling=600, breaker=breaker)
    spool.keep(an_answered_turn("x"))
    breaker.failed("No route.")
    with turns_of(database).leased(ConversationKey("alice", "c")), pytest.raises(TurnsWaiting):
        spool.settle("alice", "c")


def test_calls_that_wait_for_whoever_sends_their_turns_leave_threads_to_other_conversations(
    make_spool: MakeSpool, database: SpoolDatabase
) -> None:
    spool = make_spool(longest_settling=600)
    spool.keep(an_answered_turn("x"))
    lane, ended = Lane("store"), threading.Semaphore(0)

    def settle() -> None:
        try:
            spool.settle("alice", "c")
        finally:
            ended.release()

    with turns_of(database).leased(ConversationKey("alice", "c")):
        for _ in range(lane.size):
            lane.submit(Job(settle))
        assert lane.call(lambda: "let in", budget=5) == "let in"
    assert all(ended.acquire(timeout=30) for _ in range(lane.size))


def test_a_call_is_not_told_of_itself(spool: Spool) -> None:
    first, asking = an_answered_turn("first"), an_answered_turn("asking")
    spool.keep(first)
    spool.keep(asking)
    history = spool.history(asking, Window(10, 1000))
    assert [turn.prompt for turn in history.turns] == ["first"]
    assert spool.history(replace(asking, continuation_id="d"), Window(10, 1000)).turns == ()


# ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_fill_the_room_to_the_last_byte(make_spool: MakeSpool, tmp_path: Path) -> None:
    measured = make_spool()
    measured.keep(an_answered_turn("x"))
    with closing(SpoolDatabase(measured.folder / "spool.db", FrozenClock())) as database:
        rows = database.write(database.bytes_used)
    spool = make_spool(max_bytes=rows + 1000)
    keep_file(spool, tmp_path, "first", b"x" * 600)
    with pytest.raises(SpoolFull) as refused:
        keep_file(spool, tmp_path, "too large", b"x" * 401)
    assert f"holds {rows + 600:,} bytes, and may hold {rows + 1000:,}" in refused.value.what
    assert refused.value.remedy == (
        "bring the store back (`perdure spool status`), or raise spool_max_bytes in perdure.toml."
    )
    keep_file(spool, tmp_path, "fits", b"x" * 400)
