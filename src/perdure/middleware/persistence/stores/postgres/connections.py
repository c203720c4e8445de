"""Connections that are used again: bounded in number, each with a deadline, none shared with a forked child.

Not `psycopg_pool`: it connects in threads of its own, so a caller waits out its time and learns no reason where
connecting here says at once what is wrong; it writes two log lines for each failure; and its threads and sockets do not
survive a fork.
"""

import os
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo

from perdure.errors import StoreTimeout
from perdure.middleware.persistence.stores.postgres.connecting import connected
from perdure.middleware.persistence.stores.postgres.faults import cut_off_noticed

__all__ = ["Connection", "Connections", "is_direct"]

RV = TypeVar("RV")

_all_pools: "weakref.WeakSet[Connections]" = weakref.WeakSet()
_of_our_parent: list[object] = []
"""Connections that a forked child must neither use nor close: the sockets are its parent's."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """Gives up on the server at `deadline`, on `time.monotonic()`: its sockets have no time-out of their own."""

    deadline = 0.0
    answered_at = 0.0
    """When the server at the other end was last known to be there, on `time.monotonic()`."""
    _calls: psycopg.Cursor[tuple[Any, ...]] | None = None

    def called(self, statement: bytes, arguments: Mapping[str, str]) -> tuple[Any, ...] | None:
        """The first row of what `statement` gives. By one cursor for all: to make one takes a quarter of a call."""
        if self._calls is None:
            self._calls = self.cursor()
        return self._calls.execute(statement, arguments).fetchone()

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        left = max(self.deadline - time.monotonic(), 0.0)
        return super().wait(gen, interval, left if timeout is None else min(left, timeout))


class Connections:
    def __init__(self, conninfo: str, *, most: int) -> None:
        self.prepare = True
        """Whether statements are prepared, where the server itself is at the other end."""
        self._conninfo = make_conninfo(conninfo, application_name="perdure", client_encoding="utf8")
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._free = threading.BoundedSemaphore(most)
        _all_pools.add(self)

    def one(self, deadline: float) -> "_Borrowed":
        """A connection that nobody else uses meanwhile, in a `with`. It is closed if it is not fit to be used again.

        Raises:
            StoreTimeout: All were in use until the deadline.
            psycopg.Error: A new one could not be made.
        """
        return _Borrowed(self, deadline)

    def _borrow(self, free: threading.BoundedSemaphore, deadline: float) -> Connection:
        if not free.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise StoreTimeout(
                f"All {self._most} connections to the database were in use.",
                remedy="look at what the database is busy with; the setting max_connections allows more.",
            )
        try:
            connection = self._idle_one() or self._connect(deadline)
            connection.deadline = deadline
            if not self.prepare:
                connection.prepare_threshold = None
        except BaseException:
            free.release()
            raise
        return connection

    def drop_idle(self, *, silent_since: float | None = None) -> None:
        """Close those that nobody uses: where one was cut off, the others were as well.

        Only those that have not answered since `silent_since`, if that is given.
        """
        with self._lock:
            idle = [one for one in self._idle if silent_since is None or one.answered_at < silent_since]
            self._idle = [one for one in self._idle if one not in idle]
        for connection in idle:
            connection.close()

    def close(self) -> None:
        self.drop_idle()

    def _idle_one(self) -> Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None  # the last one used: its buffers are warm

    def _connect(self, deadline: float) -> Connection:
        connection = Connection(connected(self._conninfo, deadline))
        connection.deadline = deadline
        try:
            connection.autocommit = True
            if not is_direct(connection):
                connection.prepare_threshold = None
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_back(self, connection: Connection) -> None:
        if connection.closed:
            return
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.close()  # In the middle of something, and nobody waits for the end of it.
            return
        connection.answered_at = time.monotonic()
        with self._lock:
            self._idle.append(connection)

    def _leave_to_parent(self) -> None:
        _of_our_parent.extend(self._idle)
        self._lock = threading.Lock()
        self._idle = []
        self._free = threading.BoundedSemaphore(self._most)


class _Borrowed:
    # Not a generator: this stands around every call.
    __slots__ = ("_connection", "_connections", "_deadline", "_free")

    _connection: Connection

    def __init__(self, connections: Connections, deadline: float) -> None:
        self._connections = connections
        self._deadline = deadline
        self._free = connections._free  # a child of a fork has another one

    def __enter__(self) -> Connection:
        self._connection = self._connections._borrow(self._free, self._deadline)
        return self._connection

    def __exit__(self, *_: object) -> None:
        try:
            self._connections._put_back(self._connection)
        finally:
            self._free.release()


def is_direct(connection: Connection) -> bool:
    """Whether the server itself is at the other end: then statements may be prepared.

    Behind a pooler that shares servers among clients, the process that answers is not the one that greeted us, and a
    statement prepared in one is unknown in the next.
    """
    with cut_off_noticed(connection):
        (answering,) = connection.execute("select pg_backend_pid()", prepare=False).fetchone() or (0,)
    return bool(answering == connection.info.backend_pid)


def _after_fork_in_child() -> None:
    for pool in list(_all_pools):
        pool._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
