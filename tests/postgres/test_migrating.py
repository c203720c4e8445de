"""However the migrations reach a database, its schema is the same, and a second time changes nothing."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from postgres.databases import Database, perdure
from postgres.founding_plan import ONE_PAIR, TABLES
from servers.postgres_cluster import DEBIAN_BINARIES, PostgresCluster
from servers.supabase_cli import SupabaseCli

from perdure.errors import StoreMisconfigured
from perdure.middleware.persistence.migrations.numbered_files import Migration
from perdure.middleware.persistence.migrations.postgres_files import postgres_migrations, write_for_supabase
from perdure.middleware.persistence.sql_files import sql_folder
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn, answered

FILES = sorted((sql_folder() / "postgres" / "migrations").glob("*.sql"))


# ── the files ────────────────────────────────────────────────────────────────────────────────────────────────


def test_migrations_are_numbered_from_one_without_gaps() -> None:
    found = [migration.version for migration in postgres_migrations()]
    assert found == list(range(1, found[-1] + 1))


@pytest.mark.parametrize("migration", postgres_migrations(), ids=lambda migration: migration.label)
def test_a_file_names_its_own_number_name_and_checksum(migration: Migration) -> None:
    record = f"values ({migration.version}, '{migration.name}', '{migration.checksum}');\n"
    assert migration.sql.count(record) == 1, f"its last insert must end with: {record}"


# ── the ways to run them ─────────────────────────────────────────────────────────────────────────────────────


def test_perdure_migrate_brings_an_empty_database_to_the_schema(database: Database, migrated_schema: str) -> None:
    done = perdure("migrate", PERDURE_DATABASE_URL=database.url)
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert told[:-1] == [f"{migration.label}: done" for migration in postgres_migrations()]
    assert told[-1].endswith(f"/{database.name} is at schema version {postgres_migrations()[-1].version}.")
    assert database.cluster.password not in done.stdout
    _is_migrated(database, migrated_schema)


@pytest.mark.parametrize("mode", [["--single-transaction"], []], ids=["one transaction", "a transaction each"])
def test_psql_brings_it_to_the_same_schema(database: Database, migrated_schema: str, mode: list[str]) -> None:
    _psql(database, *mode, *(f"--file={path}" for path in FILES))
    _is_migrated(database, migrated_schema)


def test_the_printed_text_pasted_whole_brings_it_to_the_same_schema(database: Database, migrated_schema: str) -> None:
    pasted = perdure("migrate", "--print").stdout
    database.execute(pasted)
    _is_migrated(database, migrated_schema)
    before = database.records()
    database.execute(pasted)
    assert database.records() == before
    _is_migrated(database, migrated_schema)


def test_the_text_is_printed_where_the_terminal_speaks_another_encoding() -> None:
    printed = perdure("migrate", "--print", PYTHONIOENCODING="utf-8")
    elsewhere = perdure("migrate", "--print", PYTHONIOENCODING="ascii")
    assert (elsewhere.returncode, elsewhere.stdout) == (0, printed.stdout)


def test_the_supabase_cli_brings_it_to_the_same_schema_and_a_second_push_does_nothing(
    database: Database, migrated_schema: str, tmp_path: Path
) -> None:
    cli = SupabaseCli(tmp_path)
    written = perdure("migrate", "--write", "supabase/migrations", folder=tmp_path)
    assert (written.returncode, written.stdout.splitlines()[-1]) == (0, "Next: supabase db push")
    url = f"{database.url}?sslmode=disable"
    pushed = cli.push(url)
    assert [name[15:] for name in pushed] == [
        f"perdure_{migration.version:04}_{migration.name}.sql" for migration in postgres_migrations()
    ]
    _is_migrated(database, migrated_schema)
    again = perdure("migrate", "--write", "supabase/migrations", folder=tmp_path)
    assert "has all of them already" in again.stdout
    assert cli.push(url) == []
    assert database.migrate() == []


@pytest.mark.parametrize(
    "build",
    [
        {"version": 16},
        pytest.param(
            {"binaries": DEBIAN_BINARIES},
            marks=pytest.mark.skipif(not DEBIAN_BINARIES.exists(), reason="postgresql-15 is not on this machine"),
        ),
    ],
    ids=["16", "15"],
)
def test_older_versions_of_postgres_migrate_adopt_and_remember(build: dict[str, Any]) -> None:
    with PostgresCluster(fsync=False, **build) as older:
        database = Database.new(older)
        database.execute(TABLES + ONE_PAIR)
        database.migrate()
        store = database.store()
        store.finish(answered(a_turn("and now?", continuation_id="old", principal="local")))
        assert [turn.prompt for turn in store.turns("local", "old")] == ["hello", "and now?"]
        store.close()
        assert [hit["place"] for hit in database.one("select search_messages('local', 'now')")["hits"]] == [2]


def test_one_way_may_begin_and_another_end(database: Database, migrated_schema: str) -> None:
    _psql(database, f"--file={FILES[0]}", f"--file={FILES[1]}")
    assert database.migrate() == [f"{migration.label}: done" for migration in postgres_migrations()[2:]]
    _is_migrated(database, migrated_schema)


def test_the_schema_is_the_sum_of_the_migrations(database: Database, migrated_schema: str) -> None:
    schemas = [database.schema()]
    for number, migration in enumerate(postgres_migrations(), start=1):
        database.execute(migration.sql)
        assert [record[:3] for record in database.records()] == [
            (done.version, done.name, done.checksum) for done in postgres_migrations()[:number]
        ]
        schemas.append(database.schema())
        assert schemas[-1] != schemas[-2], f"{migration.label} does nothing"
        for earlier in postgres_migrations()[:number]:
            database.execute(earlier.sql)
        assert database.schema() == schemas[-1], "an earlier file, once more, changed something"
    assert schemas[-1] == migrated_schema


def test_migrating_again_changes_nothing_and_says_so(database: Database) -> None:
    database.migrate()
    before = database.schema(), database.records()
    again = perdure("migrate", PERDURE_DATABASE_URL=database.url)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    assert (database.schema(), database.records()) == before


def test_the_first_file_pasted_after_all_others_undoes_nothing(database: Database) -> None:
    database.migrate()
    database.execute("insert into chat_sessions (continuation_id, user_id) values ('kept', 'alice')")
    before = database.schema(), database.records(), database.execute("select * from chat_sessions")
    database.execute(postgres_migrations()[0].sql)
    assert (database.schema(), database.records(), database.execute("select * from chat_sessions")) == before


@pytest.mark.parametrize(
    ("before", "migration"), list(pairwise(postgres_migrations())), ids=lambda migration: migration.label
)
def test_a_file_that_is_run_before_its_time_says_what_is_missing(
    database: Database, before: Migration, migration: Migration
) -> None:
    ended = _psql(database, "--file=-", text=migration.sql, fails=True)
    assert f"perdure {migration.version:04} needs {before.version:04}" in ended
    assert "in their order" in ended
    assert database.execute("select relname from pg_class where relname like 'chat%'") == []


# ── what is written for the Supabase CLI ─────────────────────────────────────────────────────────────────────


def test_writing_again_writes_only_what_is_missing_and_never_overwrites(tmp_path: Path) -> None:
    first = write_for_supabase(tmp_path, datetime(2026, 1, 1, tzinfo=UTC))
    assert [path.name[:14] for path in first] == [f"202601010000{number:02}" for number in range(len(FILES))]
    assert [path.read_text() for path in first] == [migration.sql for migration in postgres_migrations()]
    changed, removed = first[1], first[2]
    changed.write_text("-- changed by its owner")
    removed.unlink()
    second = write_for_supabase(tmp_path, datetime(2027, 1, 1, tzinfo=UTC))
    assert [path.name[15:] for path in second] == [removed.name[15:]]
    assert changed.read_text() == "-- changed by its owner"
    assert write_for_supabase(tmp_path, datetime(2028, 1, 1, tzinfo=UTC)) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = perdure("migrate", "--write", str(tmp_path / "file" / "migrations"))
    assert ended.returncode == 1
    assert str(tmp_path / "file") in ended.stderr
    assert "Remedy" in ended.stderr


def _is_migrated(database: Database, schema: str) -> None:
    assert database.schema() == schema
    assert [record[:3] for record in database.records()] == [
        (migration.version, migration.name, migration.checksum) for migration in postgres_migrations()
    ]


def _psql(database: Database, *arguments: str, text: str = "", fails: bool = False) -> str:
    ended = subprocess.run(
        [
            database.cluster.binaries / "psql",
            "--no-psqlrc",
            "--set=ON_ERROR_STOP=1",
            f"--dbname={database.url}",
            *arguments,
        ],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
    assert bool(ended.returncode) is fails, ended.stderr
    return ended.stderr


# ── a database that a newer perdure finds ────────────────────────────────────────────────────────────────────


def test_before_0005_turns_are_kept_and_expire_and_what_is_newer_names_perdure_migrate(database: Database) -> None:
    for path in FILES[:4]:
        database.execute(path.read_text())
    clock = FrozenClock()
    store = PostgresStore(database.url, clock)
    turn = a_turn("kept", continuation_id="c", expire_after=timedelta(days=1))
    store.finish(answered(turn))
    assert [turn.prompt for turn in store.turns("alice", "c")] == ["kept"]
    with pytest.raises(StoreMisconfigured, match="perdure migrate"):
        store.conversations("alice")
    with pytest.raises(StoreMisconfigured, match="perdure migrate"):
        store.renew({"alice": [turn.id]}, clock.now())
    assert perdure("migrate", PERDURE_DATABASE_URL=database.url).returncode == 0
    (line,) = store.conversations("alice")
    assert line.expires_at == clock.now() + timedelta(days=1)
    clock.advance(timedelta(days=1))
    assert store.conversations("alice") == store.turns("alice", "c") == []
    store.close()
