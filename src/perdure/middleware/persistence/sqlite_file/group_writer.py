"""Commits the writes of many threads together, and of one process at a time.

The first thread that comes becomes the leader and commits its own write; what arrives meanwhile waits, and goes into
the next commit all at once, led by one of those who waited. No thread of our own, nothing to shut down. Among
processes a lock on a side file gives turns: SQLite's own busy waiting starves some of them for seconds.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

__all__ = ["GroupWriter"]

T = TypeVar("T")

_MOST_AT_ONCE = 64
"""Writes in one commit: more than this gains nothing and makes the first wait."""


class GroupWriter:
    """`writing` gives the connection, for one thread at a time."""

    def __init__(self, writing: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._writing = writing
        self._lock = threading.Lock()
        self._waiting: deque[_Write[Any]] = deque()
        self._leader: _Write[Any] | None = None

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        """Do `work` in a transaction, and return when it is committed.

        `durable` asks for a commit that outlives a power loss; without it, one that outlives the process. What `work`
        raises undoes that work alone.
        """
        write = _Write(work, durable)
        with self._lock:
            self._waiting.append(write)
            if self._leader is None:
                self._leader = write
            leads = self._leader is write
        if not leads:
            try:
                write.wake.wait()
            except BaseException:
                self._give_up(write)  # interrupted, as by Ctrl-C
                raise
        if not write.done:
            self._lead()
        return write.outcome()

    def _lead(self) -> None:
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
        try:
            self._commit(batch)
        finally:
            with self._lock:
                self._pass_on()
            for write in batch:
                write.done = True
                write.wake.set()

    def _pass_on(self) -> None:
        """Make whoever waits longest the next leader."""
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.wake.set()

    def _give_up(self, write: "_Write[Any]") -> None:
        with self._lock:
            if write in self._waiting:
                self._waiting.remove(write)
            if self._leader is write:
                self._pass_on()

    def _commit(self, batch: "list[_Write[Any]]") -> None:
        try:
            with self._writing() as connection:
                # FULL makes the commit wait for the disk; only a finished turn was promised that.
                connection.execute(f"PRAGMA synchronous = {'FULL' if any(w.durable for w in batch) else 'NORMAL'}")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    for write in batch:
                        write.run(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        except BaseException as error:  # noqa: BLE001 - every waiting thread must learn of it
            for write in batch:
                write.error = error


_OF_ONE_WRITE = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
"""What the database says of a single statement; anything else it says concerns them all."""


class _Write(Generic[T]):
    __slots__ = ("_result", "_work", "done", "durable", "error", "wake")

    def __init__(self, work: Callable[[sqlite3.Connection], T], durable: bool) -> None:
        self._work = work
        self._result: list[T] = []
        self.durable = durable
        self.error: BaseException | None = None
        self.wake = threading.Event()
        self.done = False

    def run(self, connection: sqlite3.Connection) -> None:
        """Do the work, or undo it alone.

        Raises:
            sqlite3.Error: The database failed: then the whole batch does.
        """
        connection.execute("SAVEPOINT one")
        try:
            self._result.append(self._work(connection))
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _OF_ONE_WRITE):
                raise
            connection.execute("ROLLBACK TO one")
            self.error = error
        connection.execute("RELEASE one")

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self._result[0]
