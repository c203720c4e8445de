"""What Postgres and the way to it say, sorted by what may be done about it, in words that name the remedy."""

import re
from typing import Any

import psycopg

from perdure.errors import (
    FunctionMissing,
    PerdureError,
    StoreError,
    StoreFailed,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
    TurnRefused,
)

__all__ = ["CutOff", "cut_off_noticed", "explained", "may_pass", "speaks_of_preparing"]

_MIGRATE = "run `perdure migrate` with the same settings; turns are kept from then on."

# SQLSTATE, or its first two characters: what happened, what to do. From appendix A of the Postgres manual.
_KNOWN: dict[str, tuple[str, str]] = {
    "28P01": ("refused the user or the password", "mend them in PERDURE_DATABASE_URL."),
    "28": ("refused this user", "mend the user in PERDURE_DATABASE_URL, or the server's pg_hba.conf."),
    "3D000": ("does not exist", "create it, or mend its name in PERDURE_DATABASE_URL."),
    "42P01": ("has no tables of perdure", _MIGRATE),
    "42704": ("has no tables of perdure", _MIGRATE),
    "42883": ("has no functions of perdure, or those of another version", _MIGRATE),
    "42501": (
        "does not let this user use perdure's tables",
        "connect as the user who migrated it, or as a member of that role.",
    ),
    "25006": ("is read-only, as a replica is", "name the primary in PERDURE_DATABASE_URL."),
    "53100": ("has no disk space left", "free some space on the database's disk."),
    "53300": (
        "accepts no more connections",
        "set a smaller max_connections in perdure.toml, or a larger one in the server; a pooler helps, too.",
    ),
    "53": ("is short of resources", "look at the server's memory and disk."),
    "55P03": ("kept a conversation locked for too long", "look for a long transaction on chat_sessions."),
    "57014": ("cancelled the statement", "look at the server's statement_timeout."),
    "57": ("is starting, stopping or restarting", "wait; look at the server's log if it lasts."),
    "08": ("closed the connection", "look at the server, and at what stands between."),
}

# libpq tells no SQLSTATE of a connection that was refused: what it says then, in the server's English or a pooler's.
_REFUSALS: tuple[tuple[str, str], ...] = (
    ("password authentication failed|SASL authentication failed|no password supplied", "28P01"),
    ("database .* does not exist|no such database", "3D000"),
    ("role .* (does not exist|is not permitted)|no pg_hba.conf entry|no such user|Tenant or user not found", "28000"),
    ("permission denied for database", "28000"),
    ("too many (clients|connections)|connection slots|no more connections allowed|[Mm]ax client connections", "53300"),
    ("the database system is|server login has been failing", "57P03"),
)

_FOR_AN_OPERATOR = ("28", "3D000", "42P01", "42704", "42883", "42501", "25006")
"""Nothing will succeed until somebody mends it."""

_OF_ITSELF = ("08", "53", "57P", "58")
"""Connection, resources, restart, system: the server's trouble, whatever it is asked."""

_NEVER = ("22", "23", "54")
"""Data, constraints, limits: this turn will be refused every time."""

_PASSING = ("40001", "40P01", "55P03")
"""Serialization failure, deadlock, lock not available: the same call may succeed now."""

_OF_PREPARING = ("26000", "42P05")
"""A prepared statement that is not there, or is there already: a pooler swaps the server under us."""


class CutOff(psycopg.OperationalError):
    """The connection was lost while a statement was under way, or before. Whether it took effect is not known."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.sqlstate = error.sqlstate or "08006"


class cut_off_noticed:  # noqa: N801 - read as a word in a `with`; no generator, since it stands around every call
    """
    Raises:
        CutOff: In place of the error with which `connection` was lost.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, psycopg.Error) and self._connection.broken:
            raise CutOff(error) from error


def may_pass(error: psycopg.Error) -> bool:
    return error.sqlstate in _PASSING


def speaks_of_preparing(error: psycopg.Error) -> bool:
    # 08P01: another client's statement has the name, and takes another number of parameters.
    return error.sqlstate in _OF_PREPARING or (error.sqlstate == "08P01" and "prepared statement" in str(error))


class explained:  # noqa: N801
    """
    Raises:
        TurnRefused: In place of what the turn itself brings about: text that Postgres cannot hold.
        StoreTimeout: In place of a lock that was not to be had.
        FunctionMissing: In place of the undefined function.
        StoreMisconfigured: In place of what else waits for an operator: rights, the schema, the address.
        StoreFailed: In place of what else the server says of the statement.
        StoreUnavailable: In place of any other `psycopg.Error` or `OSError`.
    """

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, psycopg.Error | OSError | UnicodeEncodeError) and not isinstance(error, PerdureError):
            raise _explanation(error, self._where) from error


def _explanation(error: psycopg.Error | OSError | UnicodeEncodeError, where: str) -> StoreError:
    state = getattr(error, "sqlstate", None) or _refusal(str(error))
    if isinstance(error, psycopg.DataError | UnicodeEncodeError) or state.startswith(_NEVER):
        return TurnRefused(
            f"The database {where} cannot hold something in this turn ({_first_line(error)}).",
            remedy="report this with the tool's result.",
        )
    what, remedy = (
        _KNOWN.get(state)
        or _KNOWN.get(state[:2])
        or (
            "cannot be used" if state else "cannot be reached",
            "look at the database; `perdure conversations list` tries it."
            if state
            else "look whether the server runs, and at the address in PERDURE_DATABASE_URL.",
        )
    )
    kind: type[StoreUnavailable] = StoreFailed if state else StoreUnavailable
    if state.startswith(_OF_ITSELF):
        kind = StoreUnavailable
    elif state == "55P03":
        kind = StoreTimeout
    elif state == "42883":
        kind = FunctionMissing
    elif state.startswith(_FOR_AN_OPERATOR):
        kind = StoreMisconfigured
    return kind(f"The database {where} {what} ({_first_line(error)}).", remedy=remedy)


def _refusal(said: str) -> str:
    return next((state for pattern, state in _REFUSALS if re.search(pattern, said)), "")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
