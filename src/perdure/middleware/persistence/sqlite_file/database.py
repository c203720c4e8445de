"""Opens the database file: its folder, its permissions, its settings, and one lock among processes."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from perdure.errors import PerdureError, StoreUnavailable
from perdure.middleware.persistence.durable_folder import make_durably
from perdure.middleware.persistence.migrations.sqlite import is_current, migrate_sqlite
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.sqlite_file.fork_gate import ForkGate
from perdure.middleware.persistence.sqlite_file.process_turn import ProcessTurn

__all__ = ["Connect", "Database", "explained", "is_damage"]

_BUSY_SECONDS = 3.0

_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)

Connect: TypeAlias = Callable[..., sqlite3.Connection]
"""What `sqlite3.connect` is, or stands in its place."""

_File: TypeAlias = tuple[int, int]
"""Device and inode: which file it is that a name stands for."""


class Database:
    """One database file in one process. `connect` puts something of a test's own beneath it, such as a failing disk."""

    def __init__(self, path: Path, clock: Clock, schema: str = "sqlite", connect: Connect | None = None) -> None:
        """`schema` names the folder of `sql/` whose migrations make it."""
        self.path = path
        self._name = str(path)
        self.gate = ForkGate(self.close)
        self._clock = clock
        self._schema = schema
        self._connect_to = connect
        self._turn = ProcessTurn.on(path.with_name(path.name + "-writer"))
        self.writing = _Writing(self)
        """The one connection that writes, while it is this process's turn. For one thread at a time."""
        self._writer: sqlite3.Connection | None = None
        self._file: _File | None = None
        self._lock = threading.Lock()
        self._idle_readers: list[tuple[sqlite3.Connection, _File | None]] = []

    def exists(self) -> bool:
        return self._identity() is not None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection that nobody else uses meanwhile.

        Raises:
            StoreUnavailable: The schema is none that this perdure knows.
        """
        file = self._identity()
        connection = self._idle_reader(file)
        if connection is None:
            connection = self._connect("ro")
            try:
                if not self._is_ready(connection):
                    with self.writing:
                        pass  # opening for writing brings the schema up to date
            except BaseException:
                connection.close()
                raise
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle_readers.append((connection, file))

    def moved_aside_if_damaged(self, ending: str) -> Path | None:
        """The database under another name, `<name>.<ending>`, if it is damaged; the next write makes a new one.

        Raises:
            OSError: It cannot be renamed.
        """
        aside = self.path.with_name(f"{self.path.name}.{ending}")
        with self.gate.inside(), self._turn.taken():
            if not self._is_damaged():
                return None  # Somebody else has put a new one in its place.
            self._close_writer()
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
        return aside

    def _is_damaged(self) -> bool:
        try:
            with contextlib.closing(self._connect("ro")) as connection:
                return [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")] != ["ok"]
        except sqlite3.DatabaseError as error:
            return _code(error) in _DAMAGED

    def close(self) -> None:
        with self._lock:
            readers, self._idle_readers = self._idle_readers, []
        for connection, _ in readers:
            connection.close()
        # The last connection to close makes a checkpoint, which is a write.
        if self._writer is not None:
            with contextlib.suppress(StoreUnavailable, OSError), self._turn.taken():
                self._close_writer()
        self._close_writer()
        self._turn.close()

    def _opened_writer(self) -> sqlite3.Connection:
        # If there is one, the file was moved or removed under us: what we would write to it, nobody would ever read.
        self._close_writer()
        if not self.exists():
            # Made by us first, so that it is never readable by others, not even for a moment.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = self._connect("rw")
        try:
            is_current(connection, str(self.path), self._schema)  # Before anything is set in what may not be ours.
            # 8 KiB pages cost a quarter over the payload, the usual 4 KiB nearly as much again.
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA journal_mode = WAL")
            # A migration that makes a table anew would take with it what an operator's own table says of its rows.
            connection.execute("PRAGMA foreign_keys = OFF")
            migrate_sqlite(connection, self._clock.now(), str(self.path), self._schema)
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        self._file = self._identity()
        self._writer = connection
        return connection

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None  # first: nobody may get a closed one if this is interrupted
        if writer is not None:
            writer.close()

    def _idle_reader(self, file: "_File | None") -> sqlite3.Connection | None:
        with self._lock:
            while self._idle_readers:
                connection, of_file = self._idle_readers.pop()
                if of_file == file:
                    return connection
                connection.close()
        return None

    def _is_ready(self, connection: sqlite3.Connection) -> bool:
        try:
            return is_current(connection, str(self.path), self._schema)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise
            return False  # A power loss cut a write short, and only who may write can take it back.

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = (self._connect_to or sqlite3.connect)(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _identity(self) -> "_File | None":
        try:
            status = os.stat(self._name)  # noqa: PTH116 - with each write, and a Path takes three times as long
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_dev, status.st_ino

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            make_durably(folder)
        except OSError as error:
            raise StoreUnavailable(
                f"The data directory {folder} cannot be made: {error.strerror}.",
                remedy="set PERDURE_DATA_DIR (or data_dir in perdure.toml) to a directory that this user may write.",
            ) from error


class _Writing:
    # No generator: this stands around every write.
    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        database = self._database
        database._turn.take(database._make_folder)
        try:
            writer = database._writer
            if writer is None or database._file != database._identity():
                database._turn.make_sure(database._make_folder)
                writer = database._opened_writer()
            return writer
        except BaseException:
            database._turn.give_back()
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        database = self._database
        try:
            if error is not None and database._writer is not None and database._writer.in_transaction:
                database._close_writer()  # It could not even be rolled back.
        finally:
            database._turn.give_back()


class explained:  # noqa: N801 - read as a word in a `with`; no generator, since this stands around every operation
    """What SQLite and the file system say, in words that name the file and the remedy.

    Raises:
        StoreUnavailable: In place of any `sqlite3.Error` or `OSError`.
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (sqlite3.Error, OSError)) and not isinstance(error, PerdureError):
            what, remedy = _explanation(error, self._path)
            raise StoreUnavailable(what, remedy=remedy) from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file is no database, or a broken one."""
    return _code(error) in _DAMAGED


def _code(error: Exception) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _explanation(error: sqlite3.Error | OSError, path: Path) -> tuple[str, str]:
    text = str(error)
    code = _code(error)
    if os.path.isdir(path):  # noqa: PTH112 - a Path would raise where the folder cannot be entered
        return f"{path} is a directory, and no database.", "move it elsewhere, or set PERDURE_DATA_DIR elsewhere."
    if code in _DAMAGED:
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
