"""Brings a SQLite database to the schema this version of perdure needs.

Each file of `sql/sqlite/migrations` runs once, whole, in one transaction with its own record.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.sql_files import sql_folder

__all__ = ["Migration", "is_current", "migrate_sqlite", "sqlite_migrations"]

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")

_RECORDS = """
CREATE TABLE IF NOT EXISTS perdure_migrations (
    version     INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    checksum    TEXT NOT NULL,
    applied_at  TEXT NOT NULL
) STRICT
"""


class Migration(NamedTuple):
    version: int
    name: str
    checksum: str
    sql: str


@cache
def sqlite_migrations() -> tuple[Migration, ...]:
    return tuple(_read(path) for path in sorted((sql_folder() / "sqlite" / "migrations").glob("*.sql")))


def migrate_sqlite(connection: sqlite3.Connection, at: datetime, where: str) -> None:
    """Apply what is missing. `connection` is in autocommit mode; two processes may do this at once.

    Raises:
        StoreUnavailable: The database was made by a newer perdure, or a migration was changed after it ran.
    """
    if is_current(connection, where):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_RECORDS)
        applied = _applied(connection, where)
        for migration in sqlite_migrations():
            if migration.version not in applied:
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


def is_current(connection: sqlite3.Connection, where: str) -> bool:
    """Whether nothing is missing.

    Raises:
        StoreUnavailable: The schema is not one of ours.
    """
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'perdure_migrations'").fetchone()
    return found is not None and len(_applied(connection, where)) == len(sqlite_migrations())


def _applied(connection: sqlite3.Connection, where: str) -> dict[int, str]:
    rows = connection.execute("SELECT version, checksum FROM perdure_migrations").fetchall()
    applied = {int(version): str(checksum) for version, checksum in rows}
    _refuse_strangers(applied, sqlite_migrations(), where)
    return applied


def _refuse_strangers(applied: dict[int, str], migrations: tuple[Migration, ...], where: str) -> None:
    known = {migration.version: migration.checksum for migration in migrations}
    for version, checksum in applied.items():
        if version not in known:
            raise StoreUnavailable(
                f"The database {where} has schema version {version}; this perdure knows up to {max(known)}.",
                remedy="upgrade perdure to the version that made the database, or name another data directory.",
            )
        if known[version] != checksum:
            raise StoreUnavailable(
                f"Schema version {version} of the database {where} is not the one this perdure ships.",
                remedy="install the release of perdure that made the database.",
            )


def _read(path: Path) -> Migration:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"A migration is called NNNN_name.sql, not {path.name}")
    sql = path.read_text(encoding="utf-8")
    return Migration(int(match[1]), match[2], hashlib.sha256(sql.encode()).hexdigest(), sql)


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
