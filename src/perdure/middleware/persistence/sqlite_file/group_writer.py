"""Commits the writes of many threads together, and of one process at a time.

The first thread that comes becomes the leader and commits its own write; what arrives meanwhile waits, and goes into
the next commit all at once, led by one of those who waited. No thread of our own, nothing to shut down. Among
processes a lock on a side file gives turns: SQLite's own busy waiting starves some of them for seconds.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import islice, pairwise
from operator import attrgetter
from typing import Any, TypeVar

from perdure.middleware.persistence.sqlite_file.lasting_cursor import LastingCursor
from perdure.middleware.persistence.sqlite_file.waiting_write import Refused, Write, only_one

__all__ = ["GroupWriter", "Refused"]

T = TypeVar("T")
W = TypeVar("W")

_MOST_AT_ONCE = 64
"""Writes in one commit: more than this gains nothing and makes the first wait."""


class GroupWriter:
    """`writing` gives the connection, for one thread at a time, again and again.

    What writes note for those after them can be kept right by `taken_back`, which is called, within the thread that
    commits, when what was written in a transaction was undone, of one write or of all.
    """

    def __init__(
        self, writing: AbstractContextManager[sqlite3.Connection], *, taken_back: Callable[[], None] = lambda: None
    ) -> None:
        self._writing = writing
        self._taken_back = taken_back
        self._lock = threading.Lock()
        self._waiting: deque[Write[Any]] = deque()
        self._leader: Write[Any] | None = None
        self._cursor = LastingCursor()
        self._synchronous: tuple[sqlite3.Connection | None, str] = (None, "")
        """What was set last, and on which connection."""

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        """Do `work` in a transaction, and return when it is committed.

        `durable` asks for a commit that outlives a power loss; without it, one that outlives the process. What `work`
        raises undoes that work alone. `work` may be done twice, so it changes nothing but the database.
        """
        return self.write_together(work, _one_after_another, durable=durable)

    def write_alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As a durable `write`, in a transaction of its own in which no foreign key is looked up: `work` leaves none
        that refers to nothing. SQLite looks for referring rows in the whole table where no index serves.
        """
        write: Write[T] = Write([work], _one_after_another, durable=True, alone=True)
        results = self._written(write)
        return only_one(results)

    def write_together(
        self, work: W, all_done: Callable[[sqlite3.Connection, Sequence[W]], Sequence[T | Refused]], *, durable: bool
    ) -> T:
        """As `write`, for what is done more quickly for several at once: `all_done` does each of what it is given, and
        gives the result of each. Those that are durable are done before the others.
        """
        write: Write[T] = Write([work], all_done, durable)
        results = self._written(write)
        return only_one(results)

    def write_several(
        self,
        works: Sequence[W],
        all_done: Callable[[sqlite3.Connection, Sequence[W]], Sequence[T | Refused]],
        *,
        durable: bool,
    ) -> Sequence[T | Refused]:
        """As `write_together` for each of `works`, which one thread brings: all in one commit. What one of them raises
        is `Refused` in its place.
        """
        write: Write[T] = Write(works, all_done, durable)
        return self._written(write)

    def _written(self, write: Write[T]) -> Sequence[T | Refused]:
        with self._lock:
            leads = self._leader is None
            if leads:
                self._leader = write  # Nobody waits: one of them would lead.
            else:
                self._waiting.append(write)
                write.put_to_sleep()
        if leads:
            self._lead([write])
        else:
            try:
                write.wait()
                self._wake_next(write)
            except BaseException:
                self._give_up(write)  # interrupted, as by Ctrl-C
                raise
            if not write.done:
                self._lead(self._taken())
        if write.error is not None:
            raise write.error
        return write.results

    def _taken(self) -> list[Write[Any]]:
        """Those whose turn it is: they wait no more."""
        with self._lock:
            batch = _first_of(self._waiting)
            if len(batch) == len(self._waiting):
                self._waiting.clear()
            else:
                for _ in batch:
                    self._waiting.popleft()
        return batch

    def _lead(self, batch: list[Write[Any]]) -> None:
        try:
            self._commit(batch)
        finally:
            with self._lock:
                if self._waiting:
                    self._pass_on()
                else:
                    self._leader = None
            if len(batch) > 1:
                for write, following in pairwise(batch):
                    write.following = following
                for write in batch:
                    write.done = True
                self._wake_next(batch[0])
            else:
                batch[0].done = True

    def _wake_next(self, write: Write[Any]) -> None:
        """Each whose write is done wakes the next: all at once would only stand in each other's way, at Python's own
        lock, and each be put to sleep twice.
        """
        if write.following is None:
            return
        with self._lock:
            following: Write[Any] | None = write.following
            while following is not None:
                following.wake()
                following = following.following if following.is_given_up else None

    def _pass_on(self) -> None:
        """Make whoever waits longest the next leader."""
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.wake()

    def _give_up(self, write: Write[Any]) -> None:
        with self._lock:
            write.is_given_up = True
            if write in self._waiting:
                self._waiting.remove(write)
            if self._leader is write:
                self._pass_on()
        if write.done:
            self._wake_next(write)

    def _commit(self, batch: list[Write[Any]]) -> None:
        try:
            with self._writing as connection:
                # FULL makes the commit wait for the disk; only a finished turn was promised that.
                self._set_synchronous(connection, _FULL if any(map(_is_durable, batch)) else _NORMAL)
                if batch[0].alone:
                    self._commit_alone(connection, batch)
                elif not self._committed(connection, batch, apart=False):
                    self._committed(connection, batch, apart=True)
        except BaseException as error:  # noqa: BLE001 - every waiting thread must learn of it
            for write in batch:
                write.error = error

    def _commit_alone(self, connection: sqlite3.Connection, batch: list[Write[Any]]) -> None:
        connection.execute("PRAGMA foreign_keys = OFF")
        try:
            self._committed(connection, batch, apart=False)
        finally:
            connection.execute("PRAGMA foreign_keys = ON")

    def _committed(self, connection: sqlite3.Connection, batch: list[Write[Any]], *, apart: bool) -> bool:
        """Commit all of `batch`. False if one of several failed by itself; nothing of them is done then.

        `apart` lets those that fail fail alone, and costs each two statements more.
        """
        cursor = self._cursor.on(connection)
        cursor.execute("BEGIN IMMEDIATE")
        try:
            is_lone = len(batch) == 1 and len(batch[0].works) == 1
            if is_lone:
                batch[0].do(connection)
            elif not apart:
                _done_together(connection, batch)
            else:
                self._done_apart(connection, batch)
            cursor.execute("COMMIT")
        except BaseException as error:
            self._taken_back()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not apart and not is_lone and _concerns_one(error):
                return False
            raise
        return True

    def _done_apart(self, connection: sqlite3.Connection, batch: list[Write[Any]]) -> None:
        """Each work by itself: what fails is undone alone.

        Raises:
            sqlite3.Error: The database failed: then the whole batch does.
        """
        for write in batch:
            results: list[Any] = []
            for work in write.works:
                connection.execute("SAVEPOINT one")
                try:
                    results += write.all_done(connection, [work])
                except Exception as error:
                    if not _concerns_one(error):
                        raise
                    connection.execute("ROLLBACK TO one")
                    self._taken_back()
                    results.append(Refused(error))
                connection.execute("RELEASE one")
            write.results = results

    def _set_synchronous(self, connection: sqlite3.Connection, statement: str) -> None:
        on, last = self._synchronous
        if on is not connection or last != statement:
            self._cursor.on(connection).execute(statement)
            self._synchronous = (connection, statement)


_FULL, _NORMAL = "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"

_is_durable = attrgetter("durable")


def _first_of(waiting: deque[Write[Any]]) -> list[Write[Any]]:
    """Those that may go together, those that wait longest."""
    works = 0
    batch = list(islice(waiting, _MOST_AT_ONCE))
    for number, write in enumerate(batch):
        works += len(write.works)
        if number and (write.alone or works > _MOST_AT_ONCE):
            return batch[:number]
        if write.alone:
            return batch[:1]
    return batch


def _one_after_another(connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], T]]) -> list[T]:
    return [work(connection) for work in works]


def _done_together(connection: sqlite3.Connection, batch: list[Write[Any]]) -> None:
    alike: dict[object, list[Write[Any]]] = {}
    for write in sorted(batch, key=_comes_later):
        alike.setdefault(write.all_done, []).append(write)
    for writes in alike.values():
        works = [work for write in writes for work in write.works]
        results = writes[0].all_done(connection, works)
        if len(results) != len(works):
            raise AssertionError(f"{len(works)} writes have {len(results)} results")
        first = 0
        for write in writes:
            last = first + len(write.works)
            write.results = results[first:last]
            first = last


def _comes_later(write: Write[Any]) -> bool:
    return not write.durable


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
