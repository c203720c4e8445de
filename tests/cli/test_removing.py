"""`perdure purge` and `conversations delete`: what shall go is gone with its files, and nothing else is."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cli.conftest import Ran
from cli.kept_data import Data

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.turn import StoredFile

Perdure = Callable[..., Ran]

_AN_HOUR_AGO = time.time() - 3600


@pytest.fixture
def given(data: Data, tmp_path: Path) -> Callable[..., StoredFile]:
    """A turn that gave out a file, which was written an hour ago."""
    store = LocalFileStore(data.folder / "files", "mcp-files")

    def give(
        letter: str, *, user: str = "local", name: str = "a.txt", kept: float = _AN_HOUR_AGO, **turn: object
    ) -> StoredFile:
        file = StoredFile(
            key=f"{user}/{letter * 64}/{name}",
            bucket="mcp-files",
            name=name,
            sha256=letter * 64,
            size=1,
            media_type="x",
        )
        snapshot = tmp_path / "snapshot"
        snapshot.write_text(letter)
        store.put(file.key, snapshot, media_type="x")
        os.utime(_path(data, file), (kept, kept))
        data.turn("x", user=user, files=(file,), **turn)
        return file

    return give


def test_a_deleted_conversation_takes_the_files_along_that_nothing_else_needs(
    data: Data, perdure: Perdure, given: Callable[..., StoredFile]
) -> None:
    own, shared = given("a"), given("b")
    given("b", conversation="another")
    given("c", conversation="another")
    given("c", name="other name.txt".replace(" ", "_"))
    ran = perdure("conversations", "delete", "c", "--yes")
    assert ran == (0, "1 conversation with 3 turns and 1 file deleted.\n", "")
    assert not _path(data, own).exists()
    assert _path(data, shared).exists()
    assert _path(data, given("c", conversation="another")).exists()
    assert [line["continuation_id"] for line in _listed(perdure)] == ["another"]


def test_a_file_that_was_given_out_a_moment_ago_stays_since_another_turn_may_be_about_to_name_it(
    data: Data, perdure: Perdure, given: Callable[..., StoredFile]
) -> None:
    file = given("a", kept=time.time())
    ran = perdure("conversations", "delete", "c", "--yes")
    assert "1 file stay" in ran.err
    assert _path(data, file).exists()


def test_without_a_yes_nothing_is_deleted_where_nobody_can_be_asked(data: Data, perdure: Perdure) -> None:
    data.turn("x")
    ran = perdure("conversations", "delete", "c")
    assert (ran.code, ran.out) == (1, "")
    assert "--yes" in ran.err
    assert len(_listed(perdure)) == 1


def test_all_of_a_user_goes_and_nobody_else_loses_anything(
    data: Data, perdure: Perdure, given: Callable[..., StoredFile]
) -> None:
    fresh = given("a", user="alice", kept=time.time())
    old = given("b", user="alice", conversation="old", expire_after=timedelta(microseconds=1))
    theirs = given("a", user="bob")
    ran = perdure("conversations", "delete", "--all", "--user", "alice", "--yes")
    assert ran == (0, "2 conversations with 2 turns and 2 files deleted.\n", "")
    assert not _path(data, fresh).exists()
    assert not _path(data, old).exists()
    assert not _path(data, fresh).parent.exists()
    assert _path(data, theirs).exists()
    assert [line["user"] for line in _listed(perdure)] == ["bob"]
    assert b"alice" not in (data.folder / "perdure.db").read_bytes()
    assert perdure("conversations", "delete", "--all", "--user", "alice", "--yes").code == 1


def test_purging_says_first_and_then_does(data: Data, perdure: Perdure, given: Callable[..., StoredFile]) -> None:
    file = given("a", expire_after=timedelta(microseconds=1))
    given("b", conversation="living", expire_after=timedelta(days=1))
    assert perdure("purge", "--dry-run").out == "1 conversation with 1 turn and 1 file would be purged.\n"
    assert _path(data, file).exists()
    assert json.loads(perdure("purge", "--json").out) == {
        "conversations": 1,
        "turns": 1,
        "files": 1,
        "waiting_turns": 0,
        "files_in_use": [],
        "files_elsewhere": [],
        "files_failed": {},
    }
    assert not _path(data, file).exists()
    assert perdure("purge") == (0, "Nothing purged.\n", "")
    assert [line["continuation_id"] for line in _listed(perdure)] == ["living"]


def test_a_fork_goes_on_by_itself(data: Data, perdure: Perdure) -> None:
    for prompt in "abc":
        data.turn(prompt)
    assert perdure("conversations", "fork", "c", "--at", "2", "--as", "d").out == "d goes on from 2 turns of c.\n"
    data.turn("x", conversation="d")
    shown = json.loads(perdure("conversations", "show", "d", "--json").out)
    assert [turn["prompt"] for turn in shown["turns"]] == ["a", "b", "x"]
    made = json.loads(perdure("conversations", "fork", "c", "--json").out)
    assert (len(made["continuation_id"]), made["turns"]) == (36, 3)
    assert perdure("conversations", "delete", "c", "--yes").code == 0
    assert len(json.loads(perdure("conversations", "show", "d", "--json").out)["turns"]) == 3


def test_statistics_count_what_is_kept(data: Data, perdure: Perdure, given: Callable[..., StoredFile]) -> None:
    given("a")
    data.turn("x", expire_after=timedelta(microseconds=1), conversation="old")
    data.turn("cut off", None)
    shown = perdure("stats").out
    for line in (
        "conversations     1; 1 more have expired",
        "turns             2: 1 answered, 1 interrupted",
        "files             1, 1 byte",
    ):
        assert line in shown
    assert json.loads(perdure("stats", "--user", "local", "--json").out)["turns"] == 2


def _path(data: Data, file: StoredFile) -> Path:
    return data.folder / "files" / file.bucket / file.key.rpartition("/")[0]


def _listed(perdure: Perdure) -> list[dict[str, object]]:
    return json.loads(perdure("conversations", "list", "--json").out)["conversations"]
