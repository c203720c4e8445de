"""What is deleted is deleted from the spool, too, with the files that only turns which waited there named."""

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.ports import SystemClock
from perdure.middleware.persistence.retention import LetGo, delete_conversation, forget_user, purge_expired
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import StoredFile
from perdure.testing import FaultyStore
from perdure.testing.turns import a_turn, answered

FILE = StoredFile(
    key=f"alice/{'a' * 64}/a.txt", bucket="mcp-files", name="a.txt", sha256="a" * 64, size=1, media_type="text/plain"
)


class Kept:
    def __init__(self, folder: Path) -> None:
        self.store = FaultyStore(MemoryStore())
        self.file_store = LocalFileStore(folder / "files", "mcp-files")
        self.content = folder / "files" / "mcp-files" / "alice" / ("a" * 64)
        self.spool = Spool(folder / "spool", "memory", self.store, self.file_store, SystemClock(), max_bytes=1_000_000)
        (folder / "snapshot").write_text("a")
        self.file_store.put(FILE.key, folder / "snapshot", media_type="text/plain")
        an_hour_ago = time.time() - 3600
        os.utime(self.content, (an_hour_ago, an_hour_ago))

    def waits(self, continuation_id: str = "c", principal: str = "alice") -> None:
        self.store.fail("begin", "finish")
        self.spool.keep(answered(a_turn("waits", continuation_id=continuation_id, principal=principal, files=(FILE,))))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.store.heal()
    made.spool.close()


def test_a_deleted_conversation_takes_along_what_waits_of_it(kept: Kept) -> None:
    kept.store.finish(answered(a_turn("sent", continuation_id="c", files=(FILE,))))
    kept.waits()
    done = delete_conversation(kept.store, kept.file_store, kept.spool, "alice", "c")
    assert (done.conversations, done.waiting, done.files, done.in_use) == (1, 1, 1, [])
    assert kept.spool.waiting("alice") == 0
    assert not kept.content.exists()


def test_a_file_that_a_turn_of_another_conversation_waits_with_stays(kept: Kept) -> None:
    kept.store.finish(answered(a_turn("sent", continuation_id="c", files=(FILE,))))
    kept.waits("elsewhere")
    done = delete_conversation(kept.store, kept.file_store, kept.spool, "alice", "c")
    assert (done.waiting, done.files, [name.key for name in done.in_use]) == (0, 0, [FILE.key])
    assert kept.content.exists()


def test_whoever_is_forgotten_has_nothing_in_the_spool_and_others_keep_theirs(kept: Kept) -> None:
    kept.waits()
    kept.waits("theirs", "bob")
    done = forget_user(kept.store, kept.file_store, kept.spool, "alice", progress=lambda done: None)
    assert (done.waiting, kept.spool.waiting("alice"), kept.spool.waiting("bob")) == (1, 0, 1)


def test_nothing_is_dropped_while_the_store_is_away(kept: Kept) -> None:
    kept.waits()
    kept.store.fail("delete", "forget")
    with pytest.raises(StoreUnavailable):
        delete_conversation(kept.store, kept.file_store, kept.spool, "alice", "c")
    with pytest.raises(StoreUnavailable):
        forget_user(kept.store, kept.file_store, kept.spool, "alice", progress=lambda done: None)
    assert kept.spool.waiting("alice") == 1


def test_a_file_that_cannot_be_removed_is_named_and_the_rest_goes_on(kept: Kept) -> None:
    another = StoredFile(
        key=f"alice/{'b' * 64}/b.txt", bucket="elsewhere", name="b.txt", sha256="b" * 64, size=1, media_type="x"
    )
    turn = a_turn("x", continuation_id="c", files=(FILE, another), expire_after=timedelta(microseconds=1))
    kept.store.finish(answered(turn))
    kept.content.unlink()
    kept.content.mkdir()
    (kept.content / "in the way").touch()
    seen: list[LetGo] = []
    done = purge_expired(kept.store, kept.file_store, kept.spool, dry_run=False, progress=seen.append)
    assert (done.conversations, done.files, len(seen)) == (1, 0, 1)
    assert [name.bucket for name in done.elsewhere] == ["elsewhere"]
    assert [name.key for name in done.failed] == [FILE.key]


def test_at_most_so_many_are_purged(kept: Kept) -> None:
    for number in range(5):
        turn = a_turn("x", continuation_id=f"c{number}", expire_after=timedelta(microseconds=1))
        kept.store.finish(answered(turn))
    time.sleep(0.001)
    for expected in (2, 2, 1, 0):
        done = purge_expired(kept.store, kept.file_store, None, dry_run=False, at_most=2, progress=lambda done: None)
        assert done.conversations == expected
