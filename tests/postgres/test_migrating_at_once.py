"""Migrations that meet each other, or that are cut off in the middle: each file ran once and whole, or not at all."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile

import psycopg
import pytest
from postgres.databases import PERDURE, Database
from postgres.founding_plan import ONE_PAIR, TABLES
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import wait_until

from perdure.errors import StoreError
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.migrations.numbered_files import Migration
from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations

OURS = "select pg_advisory_xact_lock(7305437215021183092)"
"""What every file does first."""


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_migrate_at_once_run_each_file_once(
    database: Database, migrated_schema: str, count: int
) -> None:
    with _held(database, OURS):
        processes = [_migrating(database) for _ in range(count)]
        _wait_for(database, count)
    ended = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, ended
    assert database.schema() == migrated_schema
    assert [record[0] for record in database.records()] == [migration.version for migration in postgres_migrations()]


def test_processes_that_adopt_at_once_keep_each_row_once(database: Database, migrated_schema: str) -> None:
    database.execute(TABLES + ONE_PAIR)
    with _held(database, "lock table chat_messages in access share mode"):
        processes = [_migrating(database) for _ in range(3)]
        _wait_for(database, 3)
    ended = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, ended
    assert database.schema() == migrated_schema
    assert database.execute("select part, content, turn_seq from chat_messages order by part") == [
        (0, "hello", 1),
        (1, "good day", 1),
    ]


def test_a_migrating_process_that_is_killed_leaves_a_file_whole_or_not_at_all(
    database: Database, migrated_schema: str
) -> None:
    database.execute(postgres_migrations()[0].sql)
    one_file = database.catalog()
    with _held(database, "lock table perdure_migrations in share mode"):  # file 2 does its work, and cannot record it
        process = _migrating(database)
        _wait_for(database, 1)
        process.kill()
        process.communicate()
        assert database.catalog() == one_file
    database.migrate()
    assert database.schema() == migrated_schema
    assert [record[0] for record in database.records()] == [migration.version for migration in postgres_migrations()]


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresCluster]:
    """A server that the tests here may kill."""
    with PostgresCluster() as cluster:
        yield cluster


@pytest.mark.parametrize("file", [1, 2])
def test_a_server_that_is_killed_during_a_migration_has_none_of_it_and_it_runs_again(
    mortal: PostgresCluster, migrated_schema: str, file: int
) -> None:
    database = Database.new(mortal)
    database.execute(TABLES + ONE_PAIR)
    for migration in postgres_migrations()[: file - 1]:
        database.execute(migration.sql)
    before = database.catalog()
    waits_for = (
        "lock table chat_messages in access share mode" if file == 1 else "lock table perdure_migrations in share mode"
    )
    with contextlib.suppress(psycopg.OperationalError), _held(database, waits_for):
        process = _migrating(database)
        _wait_for(database, 1)
        mortal.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"was lost during migration {postgres_migrations()[file - 1].label}" in said
    assert "Traceback" not in said
    mortal.start()
    assert database.catalog() == before
    database.migrate()
    assert database.schema() == migrated_schema
    assert database.execute("select content from chat_messages order by part") == [("hello",), ("good day",)]


@pytest.mark.parametrize("migration", postgres_migrations(), ids=lambda migration: migration.label)
def test_a_file_that_fails_in_its_last_statement_leaves_nothing(database: Database, migration: Migration) -> None:
    for earlier in takewhile(lambda earlier: earlier.version < migration.version, postgres_migrations()):
        database.execute(earlier.sql)
    before = database.catalog()
    broken = migration.sql.replace("-- ── end", "perform 1 / 0; -- ")
    with pytest.raises(psycopg.errors.DivisionByZero):
        database.execute(broken)
    assert database.catalog() == before
    database.execute(migration.sql)
    assert database.catalog() != before


def test_what_stands_in_the_way_of_a_file_is_named_and_the_files_before_it_are_kept(
    database: Database, migrated_schema: str
) -> None:
    name = "purge_expired(max_conversations integer, at timestamptz)"
    database.execute(f"create function {name} returns json language sql as 'select null::json'")
    with pytest.raises(StoreError) as refused:
        database.migrate()
    assert refused.value.what == (
        f'Migration 0003 reading cannot run on {database.name}: function "purge_expired" already exists with same '
        "argument types. Nothing of it was left behind."
    )
    assert [record[0] for record in database.records()] == [1, 2]
    database.execute(f"drop function {name.replace('max_conversations ', '').replace('at ', '')}")
    database.migrate()
    assert database.schema() == migrated_schema


def test_tables_that_somebody_holds_are_waited_for_only_so_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = [file._replace(sql=file.sql.replace("'15s'", "'50ms'")) for file in postgres_migrations()]
    monkeypatch.setattr(migrations, "postgres_migrations", lambda: hasty)
    with _held(database, OURS), pytest.raises(StoreError) as refused:
        database.migrate()
    assert "Migration 0001 tables cannot run" in refused.value.what
    assert "while the servers stand still" in refused.value.remedy


def test_a_migration_waits_in_no_ring_with_who_has_read_the_messages_and_would_write(database: Database) -> None:
    for migration in postgres_migrations()[:10]:
        database.execute(migration.sql)
    with ThreadPoolExecutor(1) as threads, database.connect() as server:
        with server.transaction():
            server.execute("set local deadlock_timeout = '10ms'")
            server.execute("select from chat_messages")
            migrating = threads.submit(database.migrate)
            _wait_for(database, 1)
            server.execute("update chat_messages set tokens = 1 where part = 1")
        assert "0011 words: done" in migrating.result(60)


def _migrating(database: Database) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PERDURE, "migrate"],
        env=os.environ | {"PERDURE_DATABASE_URL": database.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def _held(database: Database, lock: str) -> Iterator[None]:
    with database.connect() as connection, connection.transaction():
        connection.execute(lock.encode())
        yield


def _wait_for(database: Database, count: int) -> None:
    """Until so many connections of this database wait for a lock."""
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    with database.connect() as watcher:
        wait_until(lambda: watcher.execute(waiting).fetchone() == (count,), f"not {count} migrations wait for the lock")
