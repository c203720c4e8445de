"""The names of folders of ours are on the disk before anything in them is acknowledged."""

import os
import stat
from pathlib import Path

import pytest
from conftest import Activate

from perdure.middleware.persistence.durable_folder import make_durably
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.signing_key import key_in
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was synced, in order."""
    found: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def test_every_folder_that_was_missing_is_synced_in_the_one_above_and_is_for_this_user_alone(
    tmp_path: Path, synced: list[Path]
) -> None:
    make_durably(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    for folder in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700


def test_a_folder_that_is_there_costs_no_sync(tmp_path: Path, synced: list[Path]) -> None:
    make_durably(tmp_path)
    assert synced == []


def test_a_folder_under_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory|File exists"):
        make_durably(tmp_path / "file" / "data")


def test_a_first_turn_a_first_file_and_a_key_have_the_name_of_their_folder_on_the_disk(
    tmp_path: Path, synced: list[Path]
) -> None:
    store = SqliteStore(tmp_path / "turns" / "perdure.db")
    turn = a_turn("p", continuation_id="c")
    store.begin(turn, Window(1, 1))
    store.finish(answered(turn))
    store.close()
    key_in(tmp_path / "keys")
    (tmp_path / "snapshot").write_text("x")
    LocalFileStore(tmp_path / "files", "mcp-files").put(
        f"alice/{'a' * 64}/x.txt", tmp_path / "snapshot", media_type="text/plain"
    )
    assert synced.count(tmp_path) >= 3
    assert {tmp_path / "files", tmp_path / "files" / "mcp-files"} <= set(synced)


def test_what_waits_in_a_spool_has_the_name_of_its_folder_on_the_disk(
    activate: Activate, tmp_path: Path, synced: list[Path]
) -> None:
    runtime = activate(data_dir=tmp_path / "data", spooled=True)
    assert runtime.spool is not None
    runtime.spool.keep(answered(a_turn("p", continuation_id="c")))
    assert {tmp_path, tmp_path / "data"} <= set(synced)
