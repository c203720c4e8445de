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
    """`writing` gives the connection, for one thread at a time.

    What writes note for those after them can be kept right by two calls, within the thread that commits: `began`, when
    a transaction has begun, and `taken_back`, when what was written in one was undone, of one write or of all.
    """

    def __init__(
        self,
        writing: Callable[[], AbstractContextManager[sqlite3.Connection]],
        *,
        began: Callable[[], None] = lambda: None,
        taken_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._writing = writing
        self._began = began
        self._taken_back = taken_back
        self._lock = threading.Lock()
        self._waiting: deque[_Write[Any]] = deque()
        self._leader: _Write[Any] | None = None
        self._synchronous: tuple[sqlite3.Connection | None, str] = (None, "")
        """What was set last, and on which connection."""

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        """Do `work` in a transaction, and return when it is committed.

        `durable` asks for a commit that outlives a power loss; without it, one that outlives the process. What `work`
        raises undoes that work alone. `work` may be done twice, so it changes nothing but the database.
        """
        write = _Write(work, durable)
        with self._lock:
            self._waiting.append(write)
            if self._leader is None:
                self._leader = write
            leads = self._leader is write
        if not leads:
            try:
                write.wake.acquire()
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
                write.wake.release()

    def _pass_on(self) -> None:
        """Make whoever waits longest the next leader."""
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.wake.release()

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
                self._set_synchronous(connection, "FULL" if any(write.durable for write in batch) else "NORMAL")
                if not self._committed(connection, batch, apart=False):
                    self._committed(connection, batch, apart=True)
        except BaseException as error:  # noqa: BLE001 - every waiting thread must learn of it
            for write in batch:
                write.error = error

    def _committed(self, connection: sqlite3.Connection, batch: "list[_Write[Any]]", *, apart: bool) -> bool:
        """Commit all of `batch`. False if one of several failed by itself; nothing of them is done then.

        `apart` lets those that fail fail alone, and costs each two statements more.
        """
        connection.execute("BEGIN IMMEDIATE")
        self._began()
        try:
            for write in batch:
                if apart:
                    if not write.run_apart(connection):
                        self._taken_back()
                else:
                    write.run(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            self._taken_back()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if len(batch) > 1 and not apart and _concerns_one(error):
                return False
            raise
        return True

    def _set_synchronous(self, connection: sqlite3.Connection, level: str) -> None:
        on, now = self._synchronous
        if on is not connection or now != level:
            connection.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = (connection, level)


def _concerns_one(error: BaseException) -> bool:
    """Whether it is the fault of a single write; anything else that the database says concerns them all."""
    return isinstance(error, Exception) and (not isinstance(error, sqlite3.Error) or isinstance(error, _OF_ONE_WRITE))


_OF_ONE_WRITE = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)


class _Write(Generic[T]):
    __slots__ = ("_result", "_work", "done", "durable", "error", "wake")

    def __init__(self, work: Callable[[sqlite3.Connection], T], durable: bool) -> None:
        self._work = work
        self._result: tuple[T] | None = None
        self.durable = durable
        self.error: BaseException | None = None
        self.done = False
        self.wake = threading.Lock()
        """Free once there is something to do for whoever waits: its work is done, or it is the leader."""
        self.wake.acquire()

    def run(self, connection: sqlite3.Connection) -> None:
        self._result = (self._work(connection),)

    def run_apart(self, connection: sqlite3.Connection) -> bool:
        """Do the work, or undo it alone. Says whether it was done.

        Raises:
            sqlite3.Error: The database failed: then the whole batch does.
        """
        connection.execute("SAVEPOINT one")
        try:
            self.run(connection)
        except Exception as error:
            if not _concerns_one(error):
                raise
            connection.execute("ROLLBACK TO one")
            self.error = error
        connection.execute("RELEASE one")
        return self.error is None

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        if self._result is None:
            raise AssertionError("a write that is over has either failed or a result")
        return self._result[0]
