"""What the spool's database says of turns and files that wait, and who may work on them: nothing is sent here."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from spool.conftest import an_answered_turn

from perdure import Outcome
from perdure.errors import SpoolFull, StoreError, StoreUnavailable
from perdure.middleware.persistence.spool import leases
from perdure.middleware.persistence.spool.database import SpoolDatabase
from perdure.middleware.persistence.spool.leases import Lease
from perdure.middleware.persistence.spool.spooled_files import SpooledFiles
from perdure.middleware.persistence.spool.spooled_turns import ConversationKey, SpooledTurns
from perdure.middleware.persistence.spool.turn_record import write_file, write_turn
from perdure.middleware.persistence.sqlite_file.group_writer import GroupWriter
from perdure.middleware.persistence.turn import Window
from perdure.testing import FrozenClock
from perdure.testing.turns import a_file, a_turn, ended

C = ConversationKey("alice", "c")
WIDE = Window(1000, 1_000_000)


class Room:
    """Asked before anything is kept."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.is_left = True

    def __call__(self, _: sqlite3.Connection, size: int) -> None:
        self.asked.append(size)
        if not self.is_left:
            raise SpoolFull("It is full.", remedy="none: this is a test.")


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SpoolDatabase]:
    database = SpoolDatabase(tmp_path / "spool.db", FrozenClock())
    yield database
    database.close()


@pytest.fixture
def turns(database: SpoolDatabase, room: Room) -> SpooledTurns:
    return SpooledTurns(database, "here", room)


@pytest.fixture
def files(database: SpoolDatabase, room: Room, tmp_path: Path) -> SpooledFiles:
    return SpooledFiles(database, "here", tmp_path / "files", room)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "snapshot"
    path.write_bytes(b"content")
    return path


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_where_nothing_was_ever_kept_nothing_waits_and_nothing_is_made(turns: SpooledTurns, tmp_path: Path) -> None:
    assert turns.waiting(C) == 0
    assert turns.next(C) == list(turns.conversations()) == []
    assert turns.file("alice", "key") is None
    assert turns.history(C, WIDE, "none").complete is False
    assert not (tmp_path / "spool.db").exists()


def test_how_many_wait_is_counted_up_to_a_few(turns: SpooledTurns) -> None:
    for number in range(23):
        turns.keep(an_answered_turn(f"{number}"))
    assert turns.waiting(C) == len(turns.next(C)) == 20
    assert turns.waiting(C, most=30) == len(turns.next(C, most=30)) == 23
    assert turns.waiting(C, most=3) == len(turns.next(C, most=3)) == 3
    assert turns.waiting(ConversationKey("bob", "c")) == turns.waiting(ConversationKey("alice", "d")) == 0


def test_turns_are_handed_out_as_they_were_kept(turns: SpooledTurns) -> None:
    running, done = a_turn("running", continuation_id="c"), an_answered_turn("done")
    turns.keep(running)
    turns.keep(done)
    first, second = turns.next(C)
    assert (first.turn_id, first.ended, first.attempts, first.turn()) == (running.id, False, 0, running)
    assert (second.turn_id, second.ended, second.turn()) == (done.id, True, done)
    assert first.seq < second.seq


def test_the_first_ending_stays_in_the_place_of_its_intent(turns: SpooledTurns) -> None:
    running = a_turn("running", continuation_id="c")
    turns.keep(running)
    turns.keep(an_answered_turn("after"))
    turns.keep(ended(running, Outcome.FAILED))
    turns.keep(ended(running, Outcome.ANSWERED))
    turns.keep(running)
    assert [(waits.turn().prompt, waits.turn().outcome.value) for waits in turns.next(C)] == [
        ("running", "failed"),
        ("after", "answered"),
    ]


def test_a_turn_that_ended_after_it_was_handed_out_is_not_dropped(turns: SpooledTurns) -> None:
    running = a_turn("running", continuation_id="c")
    turns.keep(running)
    (handed_out,) = turns.next(C)
    turns.keep(ended(running, Outcome.ANSWERED))
    turns.drop(handed_out)
    (now,) = turns.next(C)
    assert now.ended
    turns.drop(now)
    assert turns.waiting(C) == 0


def test_a_refusal_is_counted_and_its_reason_kept(turns: SpooledTurns, database: SpoolDatabase) -> None:
    for prompt in ("refused", "other"):
        turns.keep(an_answered_turn(prompt))
    refused, other = turns.next(C)
    turns.failed(refused, "too long")
    assert [waits.attempts for waits in turns.next(C)] == [1, 0]
    with sqlite3.connect(database.path) as connection:
        kept = connection.execute("SELECT reason FROM spooled_turns ORDER BY seq").fetchall()
    assert kept == [("too long",), (None,)]
    turns.quarantine(refused, "still too long")
    assert [waits.turn_id for waits in turns.next(C)] == [other.turn_id]
    (quarantined,) = database.read("list_quarantine", {})
    assert (quarantined["id"], quarantined["reason"]) == (refused.turn_id, "still too long")
    assert quarantined["quarantined_at"] == "2026-01-01T00:00:00+00:00"


def test_conversations_that_wait_are_told_by_name_each_once(turns: SpooledTurns, database: SpoolDatabase) -> None:
    for principal, conversation in (("bob", "a"), ("alice", "z"), ("alice", "b"), ("alice", "b")):
        turns.keep(an_answered_turn("x", conversation, principal=principal))
    SpooledTurns(database, "elsewhere", Room()).keep(an_answered_turn("x", "other"))
    assert list(turns.conversations()) == [("alice", "b"), ("alice", "z"), ("bob", "a")]


def test_a_file_is_found_by_whom_it_was_given_to(turns: SpooledTurns) -> None:
    file = a_file("alice", "report.txt", "a")
    turns.keep(an_answered_turn("x", files=(replace(file, created_at=a_turn(continuation_id="c").started_at),)))
    assert turns.file("alice", file.key) == file
    assert turns.file("bob", file.key) is turns.file("alice", "another") is None


@pytest.mark.parametrize("ends", [True, False])
def test_nothing_is_kept_where_no_room_is_left(turns: SpooledTurns, room: Room, ends: bool) -> None:
    turn = an_answered_turn("x") if ends else a_turn("x", continuation_id="c")
    turns.keep(turn)
    assert room.asked == [len(write_turn(turn))]
    room.is_left = False
    with pytest.raises(SpoolFull):
        turns.keep(an_answered_turn("y"))
    assert turns.waiting(C) == 1


# ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────


def shown(turns: SpooledTurns, window: Window, before: str = "") -> tuple[list[str], int]:
    history = turns.history(C, window, before)
    return [turn.prompt for turn in history.turns], history.omitted


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (WIDE, (["1", "2", "3"], 1)),  # one failed
        (Window(2, 1000), (["2", "3"], 1)),  # no more is read than the window shows, and one
        (Window(2, 20), (["2", "3"], 1)),
        (Window(3, 20), (["2", "3"], 2)),
        (Window(3, 19), (["3"], 3)),
        (Window(3, 9), ([], 4)),
        (Window(0, 1000), ([], 1)),
    ],
)
def test_history_is_the_newest_answers_that_fit_into_the_window(
    turns: SpooledTurns, window: Window, expected: tuple[list[str], int]
) -> None:
    turns.keep(ended(a_turn("failed", continuation_id="c"), Outcome.FAILED))
    for number in (1, 2, 3):
        turns.keep(an_answered_turn(f"{number}"))
    turns.keep(a_turn("running", continuation_id="c"))
    assert shown(turns, window) == expected


def test_the_turn_that_asks_is_not_in_its_own_history(turns: SpooledTurns) -> None:
    first, mine = an_answered_turn("first"), an_answered_turn("mine")
    turns.keep(first)
    turns.keep(mine)
    assert shown(turns, WIDE, mine.id) == (["first"], 0)


@pytest.mark.parametrize(("minted", "place", "complete"), [(True, None, True), (True, 1, False), (False, None, False)])
def test_only_a_conversation_that_began_here_is_whole_here(
    turns: SpooledTurns, minted: bool, place: int | None, complete: bool
) -> None:
    turns.keep(an_answered_turn("first", minted=minted, place=place))
    turns.keep(an_answered_turn("later", place=7))
    assert turns.history(C, WIDE, "").complete is complete


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_waits_whole_until_it_is_dropped(files: SpooledFiles, snapshot: Path, room: Room) -> None:
    assert not files.holds("key")
    with files.read("key") as none:
        assert none is None
    files.keep("key", snapshot, media_type="text/plain")
    assert room.asked == [7]
    assert files.holds("key")
    assert not snapshot.exists()
    with files.read("key") as content:
        assert content is not None
        assert content.read() == b"content"
    (waits,) = files.waiting()
    assert (waits.key, waits.media_type, waits.attempts, waits.content.read_bytes()) == (
        "key",
        "text/plain",
        0,
        b"content",
    )
    files.drop(waits)
    files.drop(waits)  # somebody else was faster
    assert list(files.waiting()) == []
    assert not waits.content.exists()


def test_files_wait_by_key_and_one_that_is_refused_is_passed_over(
    files: SpooledFiles, snapshot: Path, database: SpoolDatabase
) -> None:
    for key in ("b", "a", "c"):
        snapshot.write_bytes(key.encode())
        files.keep(key, snapshot, media_type="text/plain")
    a, b, c = files.waiting()
    assert [waits.key for waits in (a, b, c)] == ["a", "b", "c"]
    files.failed(b, "too large")
    assert [waits.attempts for waits in files.waiting()] == [0, 1, 0]
    files.quarantine(b, "still too large")
    assert [waits.key for waits in files.waiting()] == ["a", "c"]
    (quarantined,) = database.read("list_quarantine", {})
    assert (quarantined["kind"], quarantined["id"], quarantined["reason"]) == ("file", "b", "still too large")
    assert quarantined["quarantined_at"] == "2026-01-01T00:00:00+00:00"
    snapshot.write_bytes(b"again")
    files.keep("b", snapshot, media_type="text/plain")  # given out anew, it is tried anew
    assert [(waits.key, waits.attempts) for waits in files.waiting()] == [("a", 0), ("b", 0), ("c", 0)]


def test_files_of_another_destination_are_left_alone(
    files: SpooledFiles, snapshot: Path, database: SpoolDatabase, tmp_path: Path
) -> None:
    files.keep("key", snapshot, media_type="text/plain")
    elsewhere = SpooledFiles(database, "elsewhere", tmp_path / "files", Room())
    assert list(elsewhere.waiting()) == []
    assert not elsewhere.holds("key")


def test_a_file_that_finds_no_room_stays_where_it_was(files: SpooledFiles, snapshot: Path, room: Room) -> None:
    room.is_left = False
    with pytest.raises(SpoolFull):
        files.keep("key", snapshot, media_type="text/plain")
    assert snapshot.read_bytes() == b"content"
    assert not files.holds("key")


def test_a_waiting_file_that_may_not_be_read_says_where_it_is(
    files: SpooledFiles, snapshot: Path, tmp_path: Path
) -> None:
    files.keep("key", snapshot, media_type="text/plain")
    (path,) = (tmp_path / "files").iterdir()
    path.unlink()
    path.symlink_to(path)  # root may read everything, but no circle
    with pytest.raises(StoreError, match=str(tmp_path / "files")) as caught, files.read("key"):
        pass
    assert "permissions" in (caught.value.remedy or "")


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_turn_that_cannot_be_written_down_says_whose_it_is_and_where_to_look(turns: SpooledTurns) -> None:
    turn = replace(an_answered_turn("x"), arguments={"x": object()})
    with pytest.raises(StoreError, match=turn.id) as caught:
        turns.keep(turn)
    assert caught.value.remedy == "look at what the tool was given and what it gave back."
    assert turns.waiting(C) == 0


def test_when_a_file_was_kept_is_for_the_store_to_say() -> None:
    file = replace(a_file("alice", "report.txt", "a"), created_at=a_turn(continuation_id="c").started_at)
    assert json.loads(write_file(file))["created_at"] is None
    assert json.loads(write_turn(an_answered_turn("x", files=(file,))))["files"][0]["created_at"] is None


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_works_on_a_conversation_at_a_time(turns: SpooledTurns, database: SpoolDatabase) -> None:
    with turns.leased(C) as mine:
        assert mine is not None
        with turns.leased(C) as theirs:
            assert theirs is None
        for other in (ConversationKey("bob", "c"), ConversationKey("alice", "d")):
            with turns.leased(other) as another:
                assert another is not None
        with SpooledTurns(database, "elsewhere", Room()).leased(C) as another:
            assert another is not None
    with turns.leased(C) as again:
        assert again is not None


def test_one_works_on_a_file_at_a_time(files: SpooledFiles, snapshot: Path) -> None:
    files.keep("key", snapshot, media_type="text/plain")
    (waits,) = files.waiting()
    with files.leased(waits) as mine, files.leased(waits) as theirs, files.leased(replace(waits, key="b")) as another:
        assert mine is not None
        assert theirs is None
        assert another is not None


def test_a_lease_holds_for_fifteen_seconds_after_it_was_renewed_last(
    database: SpoolDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(leases.time, "time", lambda: now)
    mine, theirs = Lease(database, "it"), Lease(database, "it")
    assert mine.renew()
    now += 14.9
    assert not theirs.renew()
    assert mine.renew()  # less than half of it was left
    now += 14.9
    assert not theirs.renew()
    now += 0.2
    assert theirs.renew()
    assert not mine.renew()
    theirs.release()
    assert mine.renew()


def test_the_database_is_asked_only_when_less_than_half_of_a_lease_is_left(
    database: SpoolDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(leases.time, "time", lambda: now)
    mine = Lease(database, "it")
    assert mine.renew()
    database.write(
        lambda connection: connection.execute("UPDATE spool_leases SET owner = 'another', until = until + 9")
    )
    now += 7.4
    assert mine.renew()
    now += 0.2
    assert not mine.renew()


def test_a_lease_of_the_far_future_is_a_clock_that_was_wrong(database: SpoolDatabase) -> None:
    assert Lease(database, "it").renew()
    database.write(lambda connection: connection.execute("UPDATE spool_leases SET owner = 'x', until = until + 100"))
    assert Lease(database, "it").renew()


def test_whoever_has_ended_holds_no_lease_and_whoever_lives_does(database: SpoolDatabase) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        assert Lease(database, "it").renew()
        for owner, is_free in (
            (f"{done.pid}-abc-def", True),
            (f"{alive.pid}-abc-def", False),
            (f"{os.getpid()}-other-def", True),  # had our number before us
            ("not a number", False),
        ):
            database.write(
                lambda connection, owner=owner: connection.execute("UPDATE spool_leases SET owner = ?", [owner])
            )
            assert Lease(database, "it").renew() is is_free, owner
        assert alive.poll() is None


def test_a_process_of_somebody_else_lives_though_it_may_not_be_asked(
    database: SpoolDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: int, __: int) -> None:
        raise PermissionError

    monkeypatch.setattr(leases.os, "kill", refused)
    assert Lease(database, "it").renew()
    database.write(lambda connection: connection.execute("UPDATE spool_leases SET owner = '999999999-a-b'"))
    assert not Lease(database, "it").renew()


def test_only_whoever_holds_a_lease_lets_it_go(database: SpoolDatabase) -> None:
    mine, theirs = Lease(database, "it"), Lease(database, "it")
    assert mine.renew()
    theirs.release()
    assert not theirs.renew()
    mine.release()
    assert theirs.renew()


# ── the disk ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_what_somebody_was_told_waits_for_the_disk(
    turns: SpooledTurns, database: SpoolDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[bool] = []
    write = GroupWriter.write

    def noted(writer: GroupWriter, work: Callable[[sqlite3.Connection], object], *, durable: bool) -> object:
        waited.append(durable)
        return write(writer, work, durable=durable)

    monkeypatch.setattr(GroupWriter, "write", noted)
    turns.keep(a_turn("running", continuation_id="c"))
    with turns.leased(C):
        (running,) = turns.next(C)
        turns.failed(running, "too long")
        turns.drop(running)
    assert waited == [False] * 5
    waited.clear()
    turns.keep(an_answered_turn("answered"))
    turns.quarantine(*turns.next(C), "too long")
    database.write(lambda connection: connection.execute("DELETE FROM spooled_turns"))
    assert waited == [True] * 3


def test_a_connection_is_made_as_the_spool_was_told(tmp_path: Path) -> None:
    made: list[str] = []

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        made.append(str(args[0]))
        return sqlite3.connect(*args, **options)

    with closing(SpoolDatabase(tmp_path / "spool.db", FrozenClock(), connect)) as database:
        SpooledTurns(database, "here", Room()).keep(an_answered_turn("x"))
    assert made
    assert all(str(tmp_path / "spool.db") in name for name in made)


def test_what_cannot_be_read_or_written_names_the_spool(database: SpoolDatabase) -> None:
    database.path.mkdir()
    with pytest.raises(StoreUnavailable, match=str(database.path)):
        database.write(lambda connection: connection.execute("DELETE FROM spooled_turns"))
    with pytest.raises(StoreUnavailable, match=str(database.path)):
        database.read("first_turn", {"destination": "here", "user_id": "alice", "continuation_id": "c"})


def test_what_is_said_of_a_damaged_spool_tells_how_to_get_turns_out_of_it(
    turns: SpooledTurns, database: SpoolDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    database.path.write_bytes(b"garbage" * 1000)
    turns.keep(an_answered_turn("x"))
    (aside,) = database.set_aside()
    assert "spool.damaged:" in caplog.text
    assert f"`sqlite3 {aside.name} .recover`" in caplog.text
