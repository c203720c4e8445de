"""What Postgres and the way to it say, sorted by what may be done about it, in words that name the remedy."""

import contextlib
from collections.abc import Iterator

import psycopg

from perdure.errors import PerdureError, StoreError, StoreUnavailable

__all__ = ["explained", "may_pass", "speaks_of_preparing"]

_MIGRATE = "run `perdure migrate` with the same settings; turns are kept from then on."

# SQLSTATE, or its first two characters: what happened, what to do. From appendix A of the Postgres manual.
_KNOWN: dict[str, tuple[str, str]] = {
    "28P01": ("refused the password", "mend the password in PERDURE_DATABASE_URL."),
    "28": ("refused this user", "mend the user in PERDURE_DATABASE_URL, or the server's pg_hba.conf."),
    "3D000": ("does not exist", "create it, or mend its name in PERDURE_DATABASE_URL."),
    "42P01": ("has no tables of perdure", _MIGRATE),
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

_PASSING = ("40001", "40P01", "55P03")
"""Serialization failure, deadlock, lock not available: the same call may succeed now."""

_OF_PREPARING = ("26000", "42P05")
"""A prepared statement that is not there, or is there already: a pooler swaps the server under us."""


def may_pass(error: psycopg.Error) -> bool:
    return error.sqlstate in _PASSING


def speaks_of_preparing(error: psycopg.Error) -> bool:
    return error.sqlstate in _OF_PREPARING


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """
    Raises:
        StoreError: In place of what the turn itself brings about: text that Postgres cannot hold.
        StoreUnavailable: In place of any other `psycopg.Error` or `OSError`.
    """
    try:
        yield
    except PerdureError:
        raise
    except (psycopg.DataError, UnicodeEncodeError) as error:
        raise StoreError(
            f"The database {where} cannot hold something in this turn ({_first_line(error)}).",
            remedy="report this with the tool's result.",
        ) from error
    except (psycopg.Error, OSError) as error:
        state = getattr(error, "sqlstate", None) or ""
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
        raise StoreUnavailable(f"The database {where} {what} ({_first_line(error)}).", remedy=remedy) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
