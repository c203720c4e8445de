"""The local copies that tools are given do not fill the disk."""

import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.files import keeper
from perdure.middleware.persistence.files.keeper import FileKeeper
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import StoredFile
from perdure.testing.turns import a_turn, answered


class Copies:
    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.keeper = FileKeeper(self.store, LocalFileStore(folder / "files", "b"), folder)
        content = b"x" * 1000
        sha256 = hashlib.sha256(content).hexdigest()
        file = StoredFile(
            key=f"alice/{sha256}/a.txt", bucket="b", name="a.txt", sha256=sha256, size=1000, media_type="text/plain"
        )
        snapshot = folder / "snapshot"
        snapshot.write_bytes(content)
        self.keeper.file_store.put(file.key, snapshot, media_type="text/plain")
        self.store.finish(answered(a_turn("p", continuation_id="c", files=(file,)), "a"))
        self.uri = file.uri

    def make(self, *, age: float = 0) -> Path:
        """A copy that was made `age` seconds ago."""
        copy = self.keeper.bring_back("alice", self.uri, max_bytes=1000, progress=lambda _done, _size: None)
        os.utime(copy.parent, (keeper.time.time() - age,) * 2)
        return copy


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    made = Copies(tmp_path)
    monkeypatch.setattr(keeper, "_CLEAN_EVERY", 0.0)
    return made


def test_copies_go_after_their_time(copies: Copies) -> None:
    old, young = copies.make(age=3700), copies.make(age=3500)

    copies.make()

    assert not old.exists()
    assert young.exists()


def test_the_oldest_go_before_their_time_where_all_take_too_much_room(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [copies.make(age=age) for age in (300, 200, 100)]
    monkeypatch.setattr(keeper, "_MOST_OF_COPIES", 2500)

    copies.make()

    assert [copy.exists() for copy in made] == [False, True, True]


def test_the_room_may_be_filled_to_the_last_byte(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [copies.make(age=age) for age in (200, 100)]
    monkeypatch.setattr(keeper, "_MOST_OF_COPIES", 2000)

    copies.make()

    assert all(copy.exists() for copy in made)


def test_what_is_no_folder_counts_for_nothing_and_hinders_nothing(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = copies.make(age=3700)
    stray = copies.keeper.copies / "stray"
    stray.write_bytes(b"x" * 5000)
    young = copies.make(age=100)
    monkeypatch.setattr(keeper, "_MOST_OF_COPIES", 1000)

    copies.make()

    assert [copy.exists() for copy in (old, young, stray)] == [False, True, True]


def test_what_cannot_be_removed_hinders_nothing(copies: Copies) -> None:
    copies.make()
    stray = copies.keeper.copies / "stray"
    stray.touch()
    os.utime(stray, (time.time() - 4000,) * 2)
    old = copies.make(age=3700)

    assert copies.make().exists()
    assert not old.exists()


def test_what_is_removed_by_somebody_else_meanwhile_hinders_nothing(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, old = copies.make(age=3700), copies.make(age=3700)
    lstat = Path.lstat

    def lstat_of_what_is_left(path: Path) -> os.stat_result:
        if path == theirs.parent:
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", lstat_of_what_is_left)
    assert copies.make().exists()
    assert not old.exists()


# ── on a clock that the test moves ───────────────────────────────────────────────────────────────────────────────


class Clock(SimpleNamespace):
    now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(keeper, "time", made)
    return made


def test_copies_stay_up_to_the_last_moment_of_their_time(clock: Clock, tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    last, over = copies.make(age=3540), copies.make(age=3541)
    clock.now += 60

    copies.make()

    assert [copy.exists() for copy in (last, over)] == [True, False]


def test_old_copies_are_looked_for_once_a_minute(clock: Clock, tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    old = copies.make(age=4000)
    clock.now += 59.5
    copies.make()
    assert old.exists()
    clock.now += 0.5
    copies.make()
    assert not old.exists()
    old = copies.make(age=4000)
    clock.now += 59.5
    copies.make()
    assert old.exists(), "a minute after the last time, not after the first"


def test_no_copy_of_the_last_minute_is_removed_however_little_room_there_is(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies(tmp_path)
    monkeypatch.setattr(keeper, "_MOST_OF_COPIES", 0)
    a_minute_old, older = copies.make(), copies.make(age=1)
    clock.now += 60

    copies.make()

    assert [copy.exists() for copy in (a_minute_old, older)] == [True, False]
