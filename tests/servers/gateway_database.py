"""Transactions as the API servers open them: as a login role that takes on the caller's role and claims."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[Any, ...]]


class PoolExhausted(Exception):
    """No connection became free in time."""


class DatabaseAway(Exception):
    """No connection could be made, or (`lost`) one broke while it was used."""

    def __init__(self, error: psycopg.Error, *, lost: bool) -> None:
        super().__init__(str(error))
        self.lost = lost


@dataclass(frozen=True)
class Caller:
    """Who asks: a role of the database, and what row level security may read with `current_setting`."""

    role: str
    claims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str | None:
        return self.claims.get("sub")


SERVICE = Caller("service_role", {"role": "service_role"})


class Pool:
    """At most `size` connections, made when they are needed. For any number of threads."""

    def __init__(self, url: str, *, size: int, patience: float) -> None:
        """
        Args:
            patience: Seconds that a caller waits for a connection.
        """
        self._url = url
        self._patience = patience
        self._places = threading.BoundedSemaphore(size)
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """One in autocommit mode; it is rolled back if it comes back amid a transaction.

        Raises:
            PoolExhausted, DatabaseAway: As they say.
        """
        if not self._places.acquire(timeout=self._patience):
            raise PoolExhausted
        try:
            connection = self._taken()
            try:
                yield connection
            except psycopg.OperationalError as error:
                if connection.closed and error.sqlstate is None:
                    raise DatabaseAway(error, lost=True) from error
                raise
            finally:
                self._give_back(connection)
        finally:
            self._places.release()

    @contextmanager
    def transaction(self, caller: Caller, settings: Mapping[str, str], *, begin: str = "BEGIN") -> Iterator[Connection]:
        """Everything in it is done as `caller`, under row level security, and committed at its end."""
        local = {
            **settings,
            "role": caller.role,
            "request.jwt.claims": json.dumps({**caller.claims, "role": caller.role}, separators=(",", ":")),
        }
        statement = sql.SQL("{}; SELECT {}").format(
            sql.SQL(begin),
            sql.SQL(", ").join(sql.SQL("set_config({}, {}, true)").format(name, local[name]) for name in local),
        )
        with self.connection() as connection:
            connection.execute(statement)
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _taken(self) -> Connection:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    return connection
        try:
            return psycopg.connect(self._url, autocommit=True, prepare_threshold=None, connect_timeout=10)
        except psycopg.OperationalError as error:
            raise DatabaseAway(error, lost=False) from error

    def _give_back(self, connection: Connection) -> None:
        if not connection.closed and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                connection.close()
        if not connection.closed:
            with self._lock:
                self._idle.append(connection)


def listen(url: str, channel: str, stopped: threading.Event) -> Iterator[str | None]:
    """Notifications of `channel` until `stopped`; None when it (again) listens, since some may have been missed."""
    while not stopped.is_set():
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                yield None
                while not stopped.is_set():
                    for notice in connection.notifies(timeout=0.05):
                        yield notice.payload
        except psycopg.OperationalError:
            stopped.wait(0.1)
