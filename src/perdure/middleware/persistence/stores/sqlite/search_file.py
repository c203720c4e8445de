"""The file of a search index: private to its user, written by one at a time, and emptied while nobody writes to it."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OpenedSearchFile", "SearchFile", "SearchFileReplaced"]

_WAIT_SECONDS = 60.0
"""For another process that brings the index up to date."""

_WAIT_TO_EMPTY_SECONDS = 5.0
"""Longer than a batch takes. Who hangs for more than that shall not make the words of what was deleted stay."""

_making = threading.Lock()


class SearchFileReplaced(Exception):
    """The file that was opened is not the one of its name any more: somebody emptied it meanwhile."""


class SearchFile:
    """At `path`, beside the database `of`, which is only read."""

    def __init__(self, path: Path, of: Path) -> None:
        self.path = path
        self._of = of

    @contextlib.contextmanager
    def opened(self, *, wait_seconds: float = _WAIT_SECONDS) -> Iterator["OpenedSearchFile"]:
        """Make it, if it is not there. `wait_seconds`: for whoever else writes to it."""
        self._make()
        inode = self.inode()
        with contextlib.closing(self._connected(wait_seconds)) as connection:
            connection.row_factory = sqlite3.Row
            # A power loss may cost what was added last, and leaves no half of it.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("ATTACH ? AS kept", (f"{self._of.as_uri()}?mode=ro",))
            yield OpenedSearchFile(connection, self, inode)

    def empty(self) -> None:
        """Leave a new file in place of what is there, if anything is."""
        if self.inode() is None:
            return
        try:
            with contextlib.closing(self._connected(_WAIT_TO_EMPTY_SECONDS)) as connection:
                # Who is about to write would do so to a file without a name, and with the journal of the new one.
                connection.execute("BEGIN EXCLUSIVE")
                self._replace()
        except sqlite3.Error:  # It is damaged, or somebody hangs.
            self._replace()

    def inode(self) -> int | None:
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return None

    def _replace(self) -> None:
        for ending in ("", "-journal"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
        self._make()

    def _make(self) -> None:
        """By us first, so that it is never readable by others, not even for a moment."""
        # Never what is there already: to close a file ends all locks that this process has on it.
        with _making, contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def _connected(self, wait_seconds: float) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=wait_seconds, isolation_level=None)


class OpenedSearchFile:
    """`connection` has the database attached as `kept`."""

    def __init__(self, connection: sqlite3.Connection, file: SearchFile, inode: int | None) -> None:
        self.connection = connection
        self._file = file
        self._inode = inode

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction, which sees the database as it was at one moment. What is raised within it undoes it.

        Raises:
            SearchFileReplaced: What would be written here, nobody would ever read.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            if self._inode is None or self._inode != self._file.inode():
                raise SearchFileReplaced(str(self._file.path))
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
