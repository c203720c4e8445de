"""The local copies that tools are given do not fill the disk."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.files import keeper as module
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
        os.utime(copy.parent, (time.time() - age,) * 2)
        return copy


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    made = Copies(tmp_path)
    monkeypatch.setattr(module, "_CLEAN_EVERY", 0.0)
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
    monkeypatch.setattr(module, "_MOST_OF_COPIES", 2500)

    copies.make()

    assert [copy.exists() for copy in made] == [False, True, True]
