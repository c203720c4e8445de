"""Connections of apsw with the face of `sqlite3.Connection`, as far as stores look at it: for a VFS of a test's own.

Python's `sqlite3` has no way to put a VFS under itself, and a VFS of apsw is known to apsw's SQLite alone.
"""

import contextlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apsw

__all__ = ["Connection"]

_SYNCHRONOUS = re.compile(r"(PRAGMA\s+synchronous\s*=\s*)\w+", re.IGNORECASE)

_IN_WORDS_OF_SQLITE3 = {
    apsw.ConstraintError: sqlite3.IntegrityError,
    apsw.MismatchError: sqlite3.IntegrityError,
    apsw.CorruptError: sqlite3.DatabaseError,
    apsw.NotADBError: sqlite3.DatabaseError,
    apsw.TooBigError: sqlite3.DataError,
    apsw.BindingsError: sqlite3.ProgrammingError,
}
"""Anything else is a `sqlite3.OperationalError`, as it is there."""


class Connection:
    """`synchronous`: taken in place of what a statement asks for."""

    row_factory: Any = None
    """Rows are by name whatever is set."""

    def __init__(self, uri: str, vfs: str, *, busy_seconds: float, synchronous: str | None = None) -> None:
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE
        with _translated():
            self.apsw = apsw.Connection(uri, flags, vfs)
        self.apsw.set_busy_timeout(round(busy_seconds * 1000))
        self._synchronous = synchronous

    @property
    def in_transaction(self) -> bool:
        return self.apsw.in_transaction

    def cursor(self) -> "Connection":
        """Of which `execute` is used, and what that gives."""
        return self

    def execute(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> "Cursor":
        if self._synchronous:
            sql = _SYNCHRONOUS.sub(rf"\g<1>{self._synchronous}", sql)
        with _translated():
            return Cursor(self.apsw, sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> "Cursor":
        before = self.apsw.total_changes()
        cursor = Cursor(self.apsw, "SELECT 0", ())
        for row in rows:
            cursor = self.execute(sql, row)
        cursor.rowcount = self.apsw.total_changes() - before
        return cursor

    def close(self) -> None:
        with _translated():
            self.apsw.close()


class Cursor:
    def __init__(self, connection: apsw.Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> None:
        cursor = connection.cursor()
        cursor.row_trace = _Row.of
        self._rows = iter(cursor.execute(sql, parameters).fetchall())
        self.rowcount = connection.changes()
        self.lastrowid = connection.last_insert_rowid()

    def __iter__(self) -> Iterator["_Row"]:
        return self._rows

    def fetchone(self) -> "_Row | None":
        return next(self._rows, None)

    def fetchall(self) -> list["_Row"]:
        return list(self._rows)


class _Row(tuple[Any, ...]):
    names: Sequence[str]

    @classmethod
    def of(cls, cursor: apsw.Cursor, values: tuple[Any, ...]) -> "_Row":
        row = cls(values)
        row.names = [column[0] for column in cursor.get_description()]
        return row

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        kind = next((mine for its, mine in _IN_WORDS_OF_SQLITE3.items() if isinstance(error, its)), None)
        translated = (kind or sqlite3.OperationalError)(str(error))
        translated.sqlite_errorcode = getattr(error, "extendedresult", 0) & 0xFFFF
        raise translated from error
