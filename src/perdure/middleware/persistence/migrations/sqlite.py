"""Brings a SQLite database to the schema this version of perdure needs.

Each file of `sql/<schema>/migrations` runs once, whole, in one transaction with its own record.
"""

import sqlite3
from collections.abc import Iterator
from datetime import datetime

from perdure.errors import StoreMisconfigured
from perdure.middleware.persistence.migrations.numbered_files import Migration, migration_files, missing

__all__ = ["is_current", "migrate_sqlite", "sqlite_migrations"]

_RECORDS = """
CREATE TABLE IF NOT EXISTS perdure_migrations (
    version     INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    checksum    TEXT NOT NULL,
    applied_at  TEXT NOT NULL
) STRICT
"""


def sqlite_migrations(schema: str = "sqlite") -> tuple[Migration, ...]:
    return migration_files(schema)


def migrate_sqlite(connection: sqlite3.Connection, at: datetime, where: str, schema: str = "sqlite") -> None:
    """Apply what is missing. `connection` is in autocommit mode; two processes may do this at once.

    Raises:
        StoreUnavailable: The database was made by a newer perdure or by somebody else, or a migration was changed after
            it ran.
    """
    if is_current(connection, where, schema):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_RECORDS)
        for migration in _missing(connection, where, schema):
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO perdure_migrations VALUES (?, ?, ?, ?)",
                (migration.version, migration.name, migration.checksum, at.isoformat()),
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_current(connection: sqlite3.Connection, where: str, schema: str = "sqlite") -> bool:
    """Whether nothing is missing.

    Raises:
        StoreUnavailable: The schema is not one of ours.
    """
    there = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master")}
    if "perdure_migrations" not in there:
        if there:
            raise StoreMisconfigured(
                f"The database {where} is there already and is not one of perdure's. Nothing was changed in it.",
                remedy="move it elsewhere, or set PERDURE_DATA_DIR to another directory.",
            )
        return False
    return not _missing(connection, where, schema)


def _missing(connection: sqlite3.Connection, where: str, schema: str) -> list[Migration]:
    rows = connection.execute("SELECT version, checksum FROM perdure_migrations").fetchall()
    return missing(sqlite_migrations(schema), {int(version): str(checksum) for version, checksum in rows}, where)


def _statements(sql: str) -> Iterator[str]:
    """One statement at a time: `executescript` would commit the transaction first."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError("A migration ends in the middle of a statement")
