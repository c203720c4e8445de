"""A cursor that executes one statement after the other: a connection makes, notes and drops another for each."""

import sqlite3

__all__ = ["LastingCursor"]


class LastingCursor:
    """For whoever looks at the rows of one statement before the next, whichever connection it is given."""

    __slots__ = ("_connection", "_cursor")

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor

    def on(self, connection: sqlite3.Connection) -> sqlite3.Cursor:
        if self._connection is not connection:
            self._cursor = connection.cursor()
            self._connection = connection
        return self._cursor
