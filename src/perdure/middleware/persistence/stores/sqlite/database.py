"""Opens the database file: its folder, its permissions, its settings, and one lock among processes."""

import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.migrations import migrate_sqlite
from perdure.middleware.persistence.ports import Clock

if sys.platform != "win32":
    import fcntl

__all__ = ["Database", "explained"]

_BUSY_SECONDS = 5.0


class Database:
    """One database file in one process. Not usable in a forked child: make a new one there."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._writer: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._lock_file: int | None = None
        self._readers = threading.local()
        self._all_readers: list[sqlite3.Connection] = []

    def exists(self) -> bool:
        return self.path.exists()

    def writer(self) -> sqlite3.Connection:
        """The one connection that writes. Used by one thread at a time, which holds `turn_of_this_process`."""
        if self._writer is not None and self._file != self._identity():
            # The file was moved or removed under us: what we would write to it, nobody would ever read.
            self._close_connections()
        if self._writer is None:
            self._make_folder()
            if not self.exists():
                # Made by us first, so that it is never readable by others, not even for a moment.
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = self._connect("rw")
            try:
                # 8 KiB pages cost a quarter over the payload, the usual 4 KiB nearly as much again.
                connection.execute("PRAGMA page_size = 8192")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA foreign_keys = ON")
                migrate_sqlite(connection, self._clock.now(), str(self.path))
            except BaseException:
                connection.close()
                raise
            self._writer = connection
            self._file = self._identity()
        return self._writer

    def reader(self) -> sqlite3.Connection:
        """A read-only connection of the calling thread's own."""
        file = self._identity()
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None or self._readers.file != file:
            connection = self._connect("ro")
            self._readers.connection, self._readers.file = connection, file
            self._all_readers.append(connection)
        return connection

    @contextlib.contextmanager
    def turn_of_this_process(self) -> Iterator[None]:
        """Holds the lock that lets one process write at a time. For one thread at a time."""
        if sys.platform == "win32":
            yield  # SQLite's own lock has to do.
            return
        if self._lock_file is None:
            self._make_folder()
            lock_path = self.path.with_name(self.path.name + "-writer")
            self._lock_file = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._close_connections()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _close_connections(self) -> None:
        readers, self._all_readers = self._all_readers, []
        for connection in [*readers, *([self._writer] if self._writer else [])]:
            connection.close()
        self._writer = None
        self._readers = threading.local()

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreUnavailable(
                f"The data directory {folder} cannot be made: {error.strerror}.",
                remedy="set PERDURE_DATA_DIR (or data_dir in perdure.toml) to a directory that this user may write.",
            ) from error


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """What SQLite and the file system say, in words that name the file and the remedy.

    Raises:
        StoreUnavailable: In place of any `sqlite3.Error` or `OSError`.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        what, remedy = _explanation(error, path)
        raise StoreUnavailable(what, remedy=remedy) from error


def _explanation(error: sqlite3.Error | OSError, path: Path) -> tuple[str, str]:
    text = str(error)
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return (
            f"The database {path} is damaged or not a database ({text}). Nothing was changed in it.",
            "move it aside and start again (perdure makes a new one), or put a backup in its place.",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) or isinstance(
        error, PermissionError
    ):
        return (
            f"The database {path} cannot be written ({text}).",
            f"give this user write access to {path.parent} and the files in it, or set PERDURE_DATA_DIR elsewhere.",
        )
    if code == sqlite3.SQLITE_FULL:
        return f"The disk of the database {path} is full.", "free some space."
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return (
            f"The database {path} is locked by another program ({text}).",
            "end the program that holds it open for writing, such as a database browser.",
        )
    return (
        f"The database {path} cannot be used ({text}).",
        "look at the file and its folder; `perdure conversations list` tries it.",
    )
