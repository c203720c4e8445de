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
    """Not usable in a forked child: make a new one there."""

    def __init__(
        self,
        connection: Callable[[], sqlite3.Connection],
        turn_of_this_process: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._connection = connection
        self._turn_of_this_process = turn_of_this_process
        self._lock = threading.Lock()
        self._waiting: deque[_Write[Any]] = deque()
        self._led = False

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        """Do `work` in a transaction, and return when it is committed.

        `durable` asks for a commit that outlives a power loss; without it, one that outlives the process. What `work`
        raises undoes that work alone.
        """
        write = _Write(work, durable)
        with self._lock:
            self._waiting.append(write)
            lead = not self._led
            self._led = True
        if not lead:
            write.wake.wait()
            lead = not write.done
        if lead:
            self._lead()
        return write.outcome()

    def _lead(self) -> None:
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
        try:
            self._commit(batch)
        finally:
            with self._lock:
                successor = self._waiting[0] if self._waiting else None
                self._led = successor is not None
            if successor is not None:
                successor.wake.set()
            for write in batch:
                write.done = True
                write.wake.set()

    def _commit(self, batch: "list[_Write[Any]]") -> None:
        try:
            with self._turn_of_this_process():
                connection = self._connection()
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
        except sqlite3.DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - handed to the thread that asked for this work
            connection.execute("ROLLBACK TO one")
            self.error = error
        connection.execute("RELEASE one")

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self._result[0]
