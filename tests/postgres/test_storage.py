"""Supabase Storage: a private bucket, where each user reaches what is under their own prefix and nothing else."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from postgres.databases import Database, as_role, perdure
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import wait_until

from perdure.middleware.persistence.files.names import tenant_of
from perdure.middleware.persistence.migrations.postgres_files import as_one_text, postgres_migrations

STORAGE = """
create schema storage authorization {owner};
create table storage.buckets (
  id text primary key, name text not null unique, owner uuid, created_at timestamptz default now(),
  updated_at timestamptz default now(), public boolean default false, file_size_limit bigint, allowed_mime_types text[]
);
create table storage.objects (
  id uuid primary key default gen_random_uuid(), bucket_id text references storage.buckets (id), name text,
  owner uuid, created_at timestamptz default now(), unique (bucket_id, name)
);
alter table storage.objects enable row level security;
alter table storage.buckets owner to {owner};
alter table storage.objects owner to {owner};
grant usage on schema storage to anon, authenticated, service_role;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role;
"""
READY = [
    "The bucket mcp-files is there and private.",
    "Users with a token of their own reach the objects under their own prefix.",
]
POLICIES = "select policyname, cmd, roles::text from pg_policies where schemaname = 'storage' order by 1"


@pytest.fixture
def project(supabase: PostgresCluster) -> Database:
    """An empty Supabase project without storage, seen by the user who migrates it."""
    database = Database.new(supabase, owner="project")
    database.execute("grant usage on schema public to anon, authenticated, service_role")
    return database.seen_by("project", "secret")


@pytest.fixture(scope="module")
def stored(supabase: PostgresCluster) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection to a project that stores an object of alice, one of bob, and one in another bucket."""
    database = Database.new(supabase, owner="project")
    _add_storage(database)
    database.seen_by("project", "secret").migrate()
    with database.connect() as connection:
        connection.execute("insert into storage.buckets (id, name) values ('other', 'other')")
        for bucket, name in (("mcp-files", "alice/1/a"), ("mcp-files", "bob/1/b"), ("other", "alice/1/c")):
            connection.execute("insert into storage.objects (bucket_id, name) values (%s, %s)", [bucket, name])
        yield connection


# ── made ready ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_bucket_is_private_and_takes_fifty_mebibytes(project: Database) -> None:
    _add_storage(project)
    assert project.migrate()[-2:] == READY
    buckets = "select id, name, public, file_size_limit, allowed_mime_types from storage.buckets"
    assert project.execute(buckets) == [("mcp-files", "mcp-files", False, 52_428_800, None)]
    assert project.execute(POLICIES) == [
        ("perdure_add", "INSERT", "{authenticated}"),
        ("perdure_read", "SELECT", "{authenticated}"),
    ]


def test_storage_that_comes_later_is_made_ready_by_migrating_again(project: Database) -> None:
    assert all(line.endswith(": done") for line in project.migrate())
    _add_storage(project)
    again = perdure("migrate", PERDURE_DATABASE_URL=project.url)
    assert again.stdout.splitlines()[:-1] == READY
    before = project.execute("select * from storage.buckets"), project.execute(POLICIES)
    assert project.migrate() == READY
    assert (project.execute("select * from storage.buckets"), project.execute(POLICIES)) == before


def test_whoever_pastes_the_migrations_is_told_as_well(project: Database) -> None:
    _add_storage(project)
    assert READY[0] in _notices(project)
    assert READY[0] in _notices(project)  # the second time, too


def test_a_public_bucket_is_left_as_it_is_and_pointed_out(project: Database) -> None:
    _add_storage(project)
    project.execute(
        "insert into storage.buckets (id, name, public, file_size_limit) values ('mcp-files', 'mcp-files', true, 1)"
    )
    told = perdure("migrate", PERDURE_DATABASE_URL=project.url).stdout
    assert "The bucket mcp-files is public: anybody may read it. Make it private in the dashboard" in told
    assert project.execute("select public, file_size_limit from storage.buckets") == [(True, 1)]


def test_where_policies_are_forbidden_the_bucket_is_made_and_the_rest_is_said(project: Database) -> None:
    _add_storage(project, owner="supabase_storage_admin")
    project.seen_by("postgres").execute("grant all on schema storage to project")
    project.seen_by("postgres").execute("grant all on storage.buckets, storage.objects to project")
    assert project.migrate()[-2:] == [
        READY[0],
        "Users with a token of their own reach no objects (must be owner of table objects). "
        "The service key is not affected.",
    ]


@pytest.mark.parametrize(
    ("granted", "why"),
    [
        (
            "revoke usage on schema storage from anon, authenticated, service_role",
            "permission denied for schema storage",
        ),
        ("grant usage on schema storage to project", "permission denied for table buckets"),
    ],
    ids=["not even its name", "its name alone"],
)
def test_where_all_of_it_is_forbidden_the_migration_succeeds_and_says_so(
    project: Database, granted: str, why: str
) -> None:
    _add_storage(project, owner="supabase_storage_admin")
    project.seen_by("postgres").execute(
        "revoke all on storage.buckets, storage.objects from anon, authenticated, service_role"
    )
    project.seen_by("postgres").execute(granted)
    for told in (project.migrate(), project.migrate()):
        assert told[-2].startswith(f"The bucket mcp-files could not be made ({why}). Make a private one")
        assert told[-1].startswith("Users with a token of their own reach no objects (")
    assert project.one("select max(version) from perdure_migrations") == postgres_migrations()[-1].version


def test_it_is_made_ready_by_one_at_a_time(project: Database) -> None:
    """Two that drop the policies before either makes them would fail over each other."""
    project.migrate()
    _add_storage(project)
    told: list[list[str]] = []
    threads = [threading.Thread(target=lambda: told.append(project.migrate())) for _ in range(2)]
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"
    with project.connect() as holder, project.connect() as watcher:
        with holder.transaction():
            holder.execute("select pg_advisory_xact_lock(7305437215021183092)")
            for thread in threads:
                thread.start()
            wait_until(lambda: watcher.execute(waiting).fetchone() == (2,), "they do not wait", seconds=10)
        for thread in threads:
            thread.join(30)
    assert told == [READY, READY]


# ── who reaches what ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("subject", "seen"), [("alice", ["alice/1/a"]), ("bob", ["bob/1/b"]), ("carol", []), (None, [])]
)
def test_a_user_sees_the_objects_under_their_own_prefix_in_our_bucket(
    stored: psycopg.Connection[Any], subject: str | None, seen: list[str]
) -> None:
    as_role(stored, "authenticated", json.dumps({"sub": subject}))
    assert [name for (name,) in stored.execute("select name from storage.objects").fetchall()] == seen


def test_a_user_adds_objects_under_their_own_prefix(stored: psycopg.Connection[Any]) -> None:
    with stored.transaction(force_rollback=True):
        for subject in ("alice", "auth0|ünïcode", "h-impostor"):
            as_role(stored, "authenticated", json.dumps({"sub": subject}))
            _add(stored, "mcp-files", f"{tenant_of(subject)}/2/new")


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        ("mcp-files", "bob/2/new"),
        ("mcp-files", "alice2/2/new"),
        ("mcp-files", "/alice/2/new"),
        ("mcp-files", "Alice/2/new"),
        ("mcp-files", ""),
        ("mcp-files", None),
        ("other", "alice/2/new"),
    ],
)
def test_a_user_adds_nothing_elsewhere(stored: psycopg.Connection[Any], bucket: str, name: str | None) -> None:
    as_role(stored, "authenticated", '{"sub": "alice"}')
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        _add(stored, bucket, name)


def test_a_user_neither_changes_nor_removes_what_is_stored(stored: psycopg.Connection[Any]) -> None:
    as_role(stored, "authenticated", '{"sub": "alice"}')
    assert stored.execute("update storage.objects set name = 'alice/1/changed'").rowcount == 0
    assert stored.execute("delete from storage.objects").rowcount == 0


def test_a_caller_without_a_token_reaches_nothing(stored: psycopg.Connection[Any]) -> None:
    as_role(stored, "anon", '{"sub": "alice"}')
    assert stored.execute("select * from storage.objects").fetchall() == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        _add(stored, "mcp-files", "alice/2/new")


# ── the prefix ───────────────────────────────────────────────────────────────────────────────────────────────

held_by_postgres = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))
nearly_safe = st.from_regex(r"(h-)?[A-Za-z0-9_-]{0,66}[ \n.|äſİÅⅠ९]?", fullmatch=True)


@settings(max_examples=60, deadline=None)
@example(["", "x" * 64, "x" * 65, "h-", "h-x", "H-x", "h", "-", "_", "a\n", "\n", "a b", "é", "\U0001f642"])
@given(st.lists(held_by_postgres | nearly_safe, min_size=1, max_size=30))
def test_the_database_and_the_file_keeper_agree_on_everybodys_prefix(
    stored: psycopg.Connection[Any], principals: list[str]
) -> None:
    stored.execute("reset role")
    found = stored.execute(
        "select chat_tenant(p) from unnest(%s::text[]) with ordinality u (p, n) order by n", [principals]
    )
    assert [tenant for (tenant,) in found] == [tenant_of(principal) for principal in principals]


def _add_storage(database: Database, owner: str = "project") -> None:
    database.seen_by("postgres").execute(STORAGE.format(owner=owner))


def _add(connection: psycopg.Connection[Any], bucket: str, name: str | None) -> None:
    connection.execute("insert into storage.objects (bucket_id, name) values (%s, %s)", [bucket, name])


def _notices(database: Database) -> list[str]:
    """What is said to whoever runs all files at once, a line each."""
    said: list[str] = []
    with database.connect() as connection:
        connection.add_notice_handler(lambda notice: said.extend((notice.message_primary or "").splitlines()))
        connection.execute(as_one_text().encode())
    return said
