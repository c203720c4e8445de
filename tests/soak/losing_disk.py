"""A disk that forgets at a power loss what was not synced: a VFS of apsw over the system's own.

What SQLite writes goes to real files, which only the running program sees. Beside them is kept what a disk would hold:
a write counts from the sync of its file on, a name from the sync of its folder on, which SQLite's own VFS makes with
the first sync of a journal or WAL that it opened to create. The index of the WAL (`-shm`) is memory and never survives.
"""

import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeAlias

import apsw

__all__ = ["LosingDisk", "PowerLoss", "Way"]

SECTOR = 512
"""Bytes that a disk writes whole or not at all."""

_numbers = itertools.count()


class PowerLoss(apsw.IOError):
    """What everything says from the power loss on."""


class Way(Enum):
    """What becomes of what was not synced."""

    NOTHING = "nothing of it survives"
    PREFIX = "it survives up to some moment, the last write torn at a sector"
    SCATTERED = "each sector, truncation and name survives or not by chance"


@dataclass(frozen=True)
class _Write:
    offset: int
    data: bytes


@dataclass(frozen=True)
class _Cut:
    size: int


_Change: TypeAlias = _Write | _Cut


class LosingDisk:
    """The folder `folder`; what is in it now is on the disk. The power goes amid the `off_at`-th change or sync."""

    def __init__(self, folder: Path, *, off_at: int) -> None:
        self.vfs = f"losing-{next(_numbers)}"
        self.dropped = 0
        """Writes that did not survive, or not whole; known once `survivors` was called."""
        self.folder = folder
        self._left = off_at
        self._lock = threading.Lock()
        self._on_disk = {path.name: _File(path.read_bytes()) for path in folder.iterdir()}
        self._seen = dict(self._on_disk)
        self._registered = _Vfs(self)

    @property
    def is_off(self) -> bool:
        return self._left <= 0

    def close(self) -> None:
        self._registered.unregister()

    def survivors(self, way: Way, dice: random.Random) -> dict[str, bytes]:
        """What is on the disk after the power loss, by name."""
        files = dict(self._on_disk)
        for name in sorted(self._on_disk.keys() | self._seen.keys()):
            if self._on_disk.get(name) is not self._seen.get(name) and way is not Way.NOTHING and dice.random() < 0.5:
                files.pop(name, None)
                if name in self._seen:
                    files[name] = self._seen[name]
        for file in {id(file): file for file in (*self._seen.values(), *files.values())}.values():
            self.dropped += file.lose(way, dice)
        found = {name: bytes(file.synced) for name, file in files.items()}
        # SQLite must not believe an index that it did not make itself since then.
        rubbish = [name.replace("-wal", "-shm") for name in found if name.endswith("-wal") and dice.random() < 0.3]
        return found | {name: dice.randbytes(32_768) for name in rubbish}

    # ── what the VFS tells ───────────────────────────────────────────────────────────────────────────────────

    def opened(self, name: str) -> "_File":
        with self._lock:
            return self._seen.setdefault(name, _File(b""))

    def changed(self, file: "_File", change: _Change) -> None:
        with self._lock:
            self.must_be_on()
            file.waiting.append(change)
            self._count()

    def deleted(self, name: str, *, synced: bool) -> None:
        with self._lock:
            self.must_be_on()
            self._seen.pop(name, None)
            self._count()
            if synced:
                self._on_disk = dict(self._seen)

    def synced(self, file: "_File", *, and_folder: bool) -> None:
        with self._lock:
            self.must_be_on()
            self._count()
            file.sync()
            if and_folder:
                self._on_disk = dict(self._seen)

    def must_be_on(self) -> None:
        """
        Raises:
            PowerLoss: It is not.
        """
        if self.is_off:
            raise PowerLoss("the power is off")

    def _count(self) -> None:
        self._left -= 1
        self.must_be_on()


class _File:
    def __init__(self, content: bytes) -> None:
        self.synced = bytearray(content)
        self.waiting: list[_Change] = []

    def sync(self) -> None:
        for change in self.waiting:
            self._apply(change)
        self.waiting.clear()

    def lose(self, way: Way, dice: random.Random) -> int:
        """Keep of what waits what survives; returns how many writes did not, or not whole."""
        writes = [change for change in self.waiting if isinstance(change, _Write)]
        kept = list(self._kept(way, dice))
        whole = {id(change) for change in kept}
        rubbish = dice.random() < 0.5
        for change in kept:
            self._apply(change, dice if rubbish else None)
        self.waiting.clear()
        return sum(1 for write in writes if id(write) not in whole)

    def _kept(self, way: Way, dice: random.Random) -> Iterator[_Change]:
        match way:
            case Way.NOTHING:
                pass
            case Way.PREFIX:
                last = dice.randint(0, len(self.waiting))
                yield from self.waiting[:last]
                for change in self.waiting[last : last + 1]:
                    if isinstance(change, _Write):
                        sectors = list(_sectors(change))
                        yield from sectors[: dice.randrange(len(sectors))]
            case Way.SCATTERED:
                share = dice.choice((0.1, 0.5, 0.9, 0.99))
                for change in self.waiting:
                    pieces = list(_sectors(change)) if isinstance(change, _Write) else [change]
                    survive = [piece for piece in pieces if dice.random() < share]
                    yield from [change] if len(survive) == len(pieces) else survive

    def _apply(self, change: _Change, rubbish: random.Random | None = None) -> None:
        """`rubbish` fills what lies between the end of the file and a write beyond it; else there are zeros."""
        match change:
            case _Cut(size):
                del self.synced[size:]
            case _Write(offset, data):
                gap = max(offset - len(self.synced), 0)
                self.synced += rubbish.randbytes(gap) if rubbish else bytes(gap)
                self.synced[offset : offset + len(data)] = data


def _sectors(write: _Write) -> Iterator[_Change]:
    """The write in pieces that a disk writes whole."""
    at, end = write.offset, write.offset + len(write.data)
    while at < end:
        following = min(at - at % SECTOR + SECTOR, end)
        yield _Write(at, write.data[at - write.offset : following - write.offset])
        at = following


class _Vfs(apsw.VFS):
    def __init__(self, disk: LosingDisk) -> None:
        self._disk = disk
        super().__init__(disk.vfs, "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:
            return super().xOpen(name, flags)  # a temporary file, which nobody misses
        return _OpenFile(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._disk.deleted(Path(filename).name, synced=syncdir)
        super().xDelete(filename, syncdir)


class _OpenFile(apsw.VFSFile):
    def __init__(self, disk: LosingDisk, name: apsw.URIFilename | str, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        journal = flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)
        self._syncs_folder = bool(journal and flags[0] & apsw.SQLITE_OPEN_CREATE)
        self._disk = disk
        super().__init__("", name, flags)
        self._file = disk.opened(Path(path).name)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.must_be_on()
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.changed(self._file, _Write(offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.changed(self._file, _Cut(newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        # The real files need not be synced: this machine loses no power.
        self._disk.synced(self._file, and_folder=self._syncs_folder)
        self._syncs_folder = False
