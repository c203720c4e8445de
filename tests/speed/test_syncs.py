"""What a durable turn costs is counted, not timed: one sync of the disk, and none for its intent."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from soak.apsw_as_sqlite3 import Connection
from soak.losing_disk import LosingDisk

from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)


class CountingDisk(LosingDisk):
    """Never goes off."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, off_at=1 << 30)
        self.syncs = 0
        self.before_sync: Callable[[], object] = lambda: None

    def synced(self, *args: Any, **kwargs: Any) -> None:
        self.syncs += 1
        self.before_sync()
        super().synced(*args, **kwargs)

    def of(self, work: Callable[[], object]) -> int:
        """The syncs that `work` makes."""
        before = self.syncs
        work()
        return self.syncs - before


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[CountingDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    with closing(CountingDisk(folder)) as disk:
        yield disk


@pytest.fixture
def store(disk: CountingDisk) -> Iterator[SqliteStore]:
    def connect(address: str, *, timeout: float, **_: object) -> Connection:
        connection = Connection(address, disk.vfs, busy_seconds=timeout)
        connection.apsw.wal_autocheckpoint(0)  # a checkpoint has syncs of its own, one for 1,000 pages
        return connection

    with closing(SqliteStore(disk.folder / "perdure.db", connect=connect)) as store:
        store.finish(answered(a_turn("first", continuation_id="c")))
        yield store


def test_a_turn_that_is_alone_syncs_the_disk_once_when_it_ends(store: SqliteStore, disk: CountingDisk) -> None:
    for number in range(10):
        turn = a_turn(f"{number}", continuation_id="c")
        assert disk.of(lambda turn=turn: store.begin(turn, WINDOW)) == 0
        assert disk.of(lambda turn=turn: store.finish(answered(turn, "yes"))) == 1


def test_turns_that_end_while_the_disk_syncs_share_the_next_sync(store: SqliteStore, disk: CountingDisk) -> None:
    others = 15
    waiting = threading.Barrier(others + 1)
    turns = [a_turn(f"{number}", continuation_id=f"c-{number}") for number in range(others)]

    def finish(number: int) -> None:
        waiting.wait(30)
        store.finish(answered(turns[number], "yes"))

    def first_sync() -> None:
        disk.before_sync = lambda: None
        waiting.wait(30)
        while len(store._writer._waiting) < others:
            time.sleep(0.001)

    with ThreadPoolExecutor(others) as pool:
        ended = [pool.submit(finish, number) for number in range(others)]
        disk.before_sync = first_sync
        assert (
            disk.of(lambda: (store.finish(answered(a_turn("", continuation_id="c"))), [e.result() for e in ended])) == 2
        )
