"""Databases that perdure must not touch are refused in words that say why and what to do, and stay as they are."""

import pytest
from postgres.conftest import NewDatabase
from postgres.databases import Database, perdure
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import free_port

from perdure.errors import PerdureError
from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations

NEWEST = postgres_migrations()[-1].version


def test_a_database_of_a_newer_perdure_is_refused(migrated: Database) -> None:
    migrated.execute(f"insert into perdure_migrations (version, name, checksum) values ({NEWEST + 1}, 'future', 'x')")
    said = _refusal(migrated)
    assert f"has schema version {NEWEST + 1}; this perdure knows up to {NEWEST}." in said
    assert "upgrade perdure" in said


def test_a_database_whose_migrations_are_not_ours_is_refused(migrated: Database) -> None:
    migrated.execute("update perdure_migrations set checksum = 'of another file' where version = 2")
    said = _refusal(migrated)
    assert "Schema version 2 of the database" in said
    assert "is not the one this perdure ships" in said
    assert "install the release of perdure that made the database" in said


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(plain: PostgresCluster, encoding: str) -> None:
    database = Database.new(plain, options=f"encoding '{encoding}' locale 'C' template template0")
    said = _refusal(database)
    assert f"is encoded in {encoding}, which cannot hold every text" in said
    assert "create database … encoding 'UTF8' template template0" in said
    with database.connect() as connection:
        connection.execute("set client_encoding to 'UTF8'")
        with pytest.raises(Exception, match="encoding|encoded in SQL_ASCII"):  # pasted, too
            connection.execute(postgres_migrations()[0].sql.encode())
    assert database.execute("select from pg_class where relname like 'chat%' or relname like 'perdure%'") == []


def test_a_user_who_may_make_no_tables_is_told_who_may(plain: PostgresCluster, database: Database) -> None:
    stranger = _stranger(plain, database)
    said = _refusal(stranger)
    assert "Migration 0001 tables cannot run on" in said
    assert "permission denied for schema public" in said
    assert "connect as the database's owner (on Supabase: the user postgres)" in said


def test_a_user_who_may_not_see_what_was_migrated_is_told_who_may(plain: PostgresCluster, migrated: Database) -> None:
    said = _refusal(_stranger(plain, migrated))
    assert "permission denied" in said
    assert "connect as the database's owner (on Supabase: the user postgres)" in said


def test_a_read_only_database_is_refused_with_its_own_words(database: Database) -> None:
    database.execute(f"alter database {database.name} set default_transaction_read_only = on")
    assert "read-only transaction" in _refusal(database)


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    port = free_port()
    said = _told(f"postgresql://me:top-secret@127.0.0.1:{port}/db")
    assert f"me@127.0.0.1:{port}/db cannot be reached" in said
    assert "look whether the server runs" in said
    assert "top-secret" not in said


def test_without_a_database_url_it_says_which_setting_is_missing() -> None:
    ended = perdure("migrate")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "set PERDURE_DATABASE_URL" in ended.stderr


def test_the_option_wins_over_the_environment(new_database: NewDatabase) -> None:
    wanted, other = new_database(), new_database()
    ended = perdure("migrate", "--database-url", wanted.url, PERDURE_DATABASE_URL=other.url)
    assert ended.returncode == 0
    assert wanted.one("select count(*) from perdure_migrations") == NEWEST
    assert other.execute("select to_regclass('perdure_migrations')") == [(None,)]


def _refusal(database: Database) -> str:
    """What `perdure migrate` says, and does to nothing; the same as the library raises."""
    seen = Database(database.cluster, database.name)
    before = seen.catalog()
    said = _told(database.url)
    with pytest.raises(PerdureError):
        database.migrate()
    assert seen.catalog() == before
    return said


def _told(url: str) -> str:
    ended = perdure("migrate", PERDURE_DATABASE_URL=url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") == 2, ended.stderr
    return ended.stderr


def _stranger(cluster: PostgresCluster, database: Database) -> Database:
    """Who may connect, and no more."""
    role = f"stranger_{database.name}"
    cluster.execute(f"create role {role} login password 'secret'")
    return database.seen_by(role, "secret")
