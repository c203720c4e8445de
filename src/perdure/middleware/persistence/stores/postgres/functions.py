"""Calls the SQL functions over a connection of our own, within one deadline, and again where that is safe."""

import time
from collections.abc import Mapping
from functools import lru_cache

import psycopg
from psycopg import conninfo, sql

from perdure.errors import SettingsError, StoreTimeout
from perdure.middleware.persistence.json_text import compact_json
from perdure.middleware.persistence.stores.postgres.connections import Connection, Connections
from perdure.middleware.persistence.stores.postgres.faults import (
    CutOff,
    cut_off_noticed,
    explained,
    may_pass,
    speaks_of_preparing,
)
from perdure.middleware.persistence.turn import Json

__all__ = ["PostgresFunctions", "database_name"]

_ATTEMPTS = 4


class PostgresFunctions:
    def __init__(self, url: str, *, timeout: float, max_connections: int) -> None:
        self.where = database_name(url)
        self.timeout = timeout
        self._connections = Connections(url, most=max_connections)

    def call(
        self, function: str, arguments: Mapping[str, Json], *, deadline: float | None = None, again: bool = True
    ) -> Json:
        given = {name: _as_text(value) for name, value in arguments.items() if value is not None}
        statement = _statement(function, tuple(given))
        if deadline is None:
            deadline = time.monotonic() + self.timeout
        elif time.monotonic() >= deadline:
            raise self._timed_out()  # used up among the turns that travel together
        locked: psycopg.Error | None = None
        with explained(self.where):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    with self._connections.one(deadline) as connection:
                        return _result(connection, statement, given)
                except psycopg.Error as error:
                    if time.monotonic() >= deadline:
                        # Another way to the server, if there is one: this one may be dead without a word.
                        self._connections.drop_idle(silent_since=deadline - self.timeout)
                        raise locked or self._timed_out() from error  # a lock says more than the time it took
                    if not again or attempt == _ATTEMPTS or not self._may_try_again(error):
                        raise
                    locked = error if may_pass(error) else None
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        self._connections.close()

    def _may_try_again(self, error: psycopg.Error) -> bool:
        """Whether calling again may succeed. That it is harmless is in the functions: they write a turn once."""
        if speaks_of_preparing(error):
            self._connections.prepare = False
            self._connections.drop_idle()
            return True
        if isinstance(error, CutOff):
            self._connections.drop_idle()
            return True
        return may_pass(error)

    def _timed_out(self) -> StoreTimeout:
        return StoreTimeout(
            f"The database {self.where} did not answer within {self.timeout:g} s.",
            remedy="look at what the database is busy with, or waits for; the setting operation_timeout is that time, "
            "in seconds.",
        )


def _result(connection: Connection, statement: bytes, arguments: Mapping[str, str]) -> Json:
    with cut_off_noticed(connection):
        row = connection.called(statement, arguments)
    return row[0] if row else None


def _as_text(value: Json) -> str:
    """As text without a declared type, which the function's own signature reads: one statement for all sizes."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case dict() | list():
            return compact_json(value)
        case _:
            return str(value)


@lru_cache(maxsize=256)
def _statement(function: str, arguments: tuple[str, ...]) -> bytes:
    named = (sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments)
    return sql.SQL("select public.{}({})").format(sql.Identifier(function), sql.SQL(", ").join(named)).as_bytes(None)


def database_name(url: str) -> str:
    """`user@host:port/database` of a connection string, without its password.

    Raises:
        SettingsError: It is not one of Postgres. What it says is not repeated, since a password may be in it.
    """
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        parts = None
    if parts is None or _is_misread(url, parts):
        raise SettingsError(
            "The database URL cannot be read.",
            remedy="write PERDURE_DATABASE_URL (or database_url) as postgresql://user:password@host:5432/database, "
            "with characters such as @ and / in the password as %40 and %2F.",
        )
    user, host, port = parts.get("user"), parts.get("host") or "localhost", parts.get("port") or "5432"
    return f"{f'{user}@' if user else ''}{host}:{port}/{parts.get('dbname') or user or ''}"


def _is_misread(url: str, parts: Mapping[str, object]) -> bool:
    """Whether some of the password, with an @ or a / in it, was taken for the host, the port or the database."""
    _, _, after_scheme = url.partition("://")
    path = after_scheme.partition("?")[0].partition("/")[2]
    port = str(parts.get("port") or "")
    return "@" in str(parts.get("host")) or "@" in path or (not port.replace(",", "").isdecimal() and port != "")
