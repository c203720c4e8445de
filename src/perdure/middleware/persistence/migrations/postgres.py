"""Brings a Postgres database, with or without Supabase, to the schema that this version of perdure needs.

Each file is one statement that takes a lock, looks whether it ran before, and records itself. So it may be run here, by
the Supabase CLI or by hand in an SQL editor, twice or by two at once.
"""

from collections.abc import Callable
from typing import Any

import psycopg

from perdure.errors import StoreError, StoreUnavailable
from perdure.middleware.persistence.migrations.numbered_files import Migration, missing
from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations

__all__ = ["apply"]


def apply(url: str, where: str, tell: Callable[[str], None]) -> list[Migration]:
    """Run what is missing, and tell of it as it is done. Returns what was run.

    Raises:
        StoreUnavailable: The database cannot be reached, or was made by a newer perdure.
        StoreError: It cannot be done here: the message says why, and what to do. Nothing of a file that failed is left.
    """
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="perdure") as connection:
            return _applied_now(connection, where, tell)
    except (psycopg.ProgrammingError, psycopg.errors.LockNotAvailable) as error:
        raise StoreError(f"{where} cannot be migrated: {_first_line(error)}.", remedy=_remedy(error)) from error
    except psycopg.OperationalError as error:
        raise StoreUnavailable(
            f"The database {where} cannot be reached ({_first_line(error)}).",
            remedy="look whether the server runs, and at the address, the user and the password in the database URL.",
        ) from error


def _applied_now(
    connection: psycopg.Connection[tuple[Any, ...]], where: str, tell: Callable[[str], None]
) -> list[Migration]:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"The database {where} is encoded in {encoding}, which cannot hold every text.",
            remedy="make one with: create database … encoding 'UTF8' template template0.",
        )
    wanted = missing(postgres_migrations(), _recorded(connection), where)
    for migration in wanted:
        try:
            connection.execute(migration.sql.encode())
        except psycopg.Error as error:
            if connection.closed:
                raise StoreUnavailable(
                    f"{where} was lost during migration {migration.label}, which ran whole or not at all.",
                    remedy="run `perdure migrate` again.",
                ) from error
            raise _cannot_run(migration, where, error) from error
        tell(f"{migration.label}: done")
    for line in _storage_made_ready(connection):
        tell(line)
    return wanted


def _storage_made_ready(connection: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
    """Every time, since the storage schema may be younger than ours. What there is to say of it, a line each."""
    storage = connection.execute("select from pg_tables where schemaname = 'storage' and tablename = 'buckets'")
    if storage.fetchone() is None:
        return []
    row = connection.execute("select public.chat_prepare_storage()").fetchone()
    return list(row[0]) if row else []


def _recorded(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[int, str]:
    if connection.execute("select to_regclass('public.perdure_migrations')").fetchone() == (None,):
        return {}
    return dict(connection.execute("select version, checksum from public.perdure_migrations").fetchall())


def _cannot_run(migration: Migration, where: str, error: psycopg.Error) -> StoreError:
    return StoreError(
        f"Migration {migration.label} cannot run on {where}: {_first_line(error)}. Nothing of it was left behind.",
        remedy=_remedy(error),
    )


def _remedy(error: psycopg.Error) -> str:
    match error:
        case psycopg.errors.InsufficientPrivilege():
            return "connect as the database's owner (on Supabase: the user postgres)."
        case psycopg.errors.LockNotAvailable():
            return "somebody works on these tables; run it again, at best while the servers stand still."
        case _:
            return error.diag.message_hint or "mend what it says, and run it again."


def _first_line(error: psycopg.Error) -> str:
    lines = (error.diag.message_primary or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
