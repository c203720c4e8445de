"""Forks come out of an archive as forks: what they share is written once, and every one reads as it did."""

from pathlib import Path

import pytest

from perdure.middleware.persistence.archive.exporting import export_to
from perdure.middleware.persistence.archive.importing import ArchiveClock, import_from, manifest_of
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import StoredFile, Window
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn, answered

FILE = StoredFile(key=f"alice/{'0' * 64}/a", bucket="mcp-files", name="a", sha256="0" * 64, size=1, media_type="x")


@pytest.mark.parametrize("deleted", [[], ["trunk"], ["fork"], ["trunk", "fork"]], ids=str)
def test_forks_of_forks_come_back_and_their_turns_are_written_once(tmp_path: Path, deleted: list[str]) -> None:
    before = _forked(SqliteStore(tmp_path / "before.db", FrozenClock()))
    for name in deleted:
        before.delete("alice", name)
    kept = _content(before)
    turns = {turn_id for line in kept.values() for turn_id, *_ in line[1]}
    files = LocalFileStore(tmp_path / "files", "mcp-files")
    manifest = export_to(
        tmp_path / "out", before, files, principal=None, at=FrozenClock().now(), progress=lambda done, known: None
    )
    assert manifest["turns"] == len(turns)
    clock = ArchiveClock()
    after = MemoryStore(clock)
    for known in (0, len(turns)):
        done = import_from(tmp_path / "out", after, files, clock, progress=lambda turns: None)
        assert (done.turns + done.known, done.known, done.conflicts) == (len(turns), known, [])
        assert _content(after) == kept


def test_an_archive_without_forks_is_one_that_every_perdure_reads(tmp_path: Path) -> None:
    store = MemoryStore()
    store.finish(answered(a_turn(continuation_id="c")))
    for folder, version in (("without", 1), ("with", 2)):
        files = LocalFileStore(tmp_path / "files", "mcp-files")
        export_to(tmp_path / folder, store, files, principal=None, at=FrozenClock().now(), progress=lambda a, b: None)
        assert manifest_of(tmp_path / folder)["version"] == version
        if folder == "without":
            store.fork("alice", "c", 1, "fork")


def _forked(store: Store) -> Store:
    for name, prompts in (("trunk", "abc"), ("fork", "xy"), ("deeper", "z"), ("trunk", "d")):
        if name == "fork":
            store.fork("alice", "trunk", 2, "fork")
        if name == "deeper":
            store.fork("alice", "fork", 3, "deeper", minted=True)
            store.fork("alice", "fork", 1, "early")
        for prompt in prompts:
            turn = a_turn(prompt, continuation_id=name, files=(FILE,) if prompt == "a" else ())
            store.begin(turn, Window(0, 0))
            store.finish(answered(turn, prompt))
    return store


def _content(store: Store) -> dict[str, tuple[bool, list[tuple[str, int | None, str]], list[int]]]:
    return {
        line.continuation_id: (
            line.minted,
            [(turn.id, turn.place, turn.prompt) for turn in store.turns("alice", line.continuation_id)],
            [file.version for file in store.files("alice", line.continuation_id)],
        )
        for line in store.conversations("alice")
    }
