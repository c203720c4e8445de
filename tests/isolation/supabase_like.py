"""A Postgres with the roles of a Supabase project, and requests as PostgREST makes them."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from servers.postgres_cluster import PostgresCluster

from perdure.middleware.persistence.migrations import postgres as migrations

OWNER = "project_owner"
"""Owns the database, ran the migrations, and is no superuser: Supabase's `postgres`."""

PASSWORD = "of-a-throw-away-cluster"

_ROLES = f"""
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit password '{PASSWORD}';
grant anon, authenticated, service_role to authenticator;
create role {OWNER} login createdb createrole password '{PASSWORD}';
grant anon, authenticated, service_role to {OWNER};
create role stranger login password '{PASSWORD}';
grant authenticated to stranger;
"""
# `stranger`: somebody who speaks SQL and is not PostgREST. He is a member of `authenticated` and of nothing else.

# What older projects give to every table and function that is made in public, and the schema of Supabase Storage.
_PROJECT = f"""
grant usage on schema public to anon, authenticated, service_role;
alter default privileges for role {OWNER} in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges for role {OWNER} in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges for role {OWNER} in schema public grant all on sequences to anon, authenticated, service_role;
create schema storage authorization {OWNER};
grant usage on schema storage to anon, authenticated, service_role;
create table storage.buckets (id text primary key, name text, public boolean, file_size_limit bigint);
create table storage.objects (
  id uuid primary key default gen_random_uuid(), bucket_id text references storage.buckets, name text, metadata jsonb
);
alter table storage.buckets owner to {OWNER};
alter table storage.objects owner to {OWNER};
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
grant select, insert, update, delete on storage.buckets, storage.objects to anon, authenticated, service_role;
"""


@dataclass(frozen=True)
class Reply:
    """All that came back from one request: rows of every statement, or an error with everything it says; notices."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    error: psycopg.Error | None = None

    @property
    def state(self) -> str | None:
        """SQLSTATE; None where nothing was refused."""
        return self.error.sqlstate if self.error else None

    @property
    def text(self) -> str:
        said = [str(value) for row in self.rows for value in row] + self.notices
        if self.error is not None:
            diagnosis = self.error.diag
            said += [str(self.error), *map(str, (diagnosis.message_detail, diagnosis.message_hint, diagnosis.context))]
        return "\n".join(said)


class Api:
    """One connection of PostgREST's, over which requests of all roles come in turn."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.connection = connection
        self._cursor = psycopg.ClientCursor(connection)
        self._notices: list[str] = []
        connection.add_notice_handler(lambda notice: self._notices.append(str(notice.message_primary)))

    def request(
        self, statement: str, arguments: Sequence[Any] = (), *, role: str = "authenticated", claims: str | None = None
    ) -> Reply:
        """Run `statement` in a transaction of its own, which is committed.

        Args:
            claims: The JSON text of the token, as PostgREST hands it on; None: no token was sent.
        """
        opening = self._cursor.mogrify(f"begin; set local role {role}; ")
        if claims is not None:
            opening += self._cursor.mogrify("select set_config('request.jwt.claims', %s, true); ", [claims])
        body = self._cursor.mogrify(statement, arguments) if arguments else statement
        self._notices.clear()
        try:
            self._cursor.execute(opening + body)
            rows = self._all_rows()[0 if claims is None else 1 :]
            self.connection.execute("commit")
        except psycopg.Error as error:
            if self.connection.closed:
                raise
            self.connection.pgconn.exec_(b"rollback")  # not by psycopg, which would deallocate what attackers prepared
            return Reply(notices=self._notices.copy(), error=error)
        return Reply(rows, self._notices.copy())

    def as_user(self, subject: str, statement: str, arguments: Sequence[Any] = ()) -> Reply:
        return self.request(statement, arguments, claims=token(subject))

    def _all_rows(self) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        while True:
            if self._cursor.description:
                rows += self._cursor.fetchall()
            if not self._cursor.nextset():
                return rows


def token(subject: str) -> str:
    return json.dumps({"sub": subject, "role": "authenticated"})


class SupabaseLike:
    def __init__(self, cluster: PostgresCluster) -> None:
        self.cluster = cluster
        self._numbers = itertools.count()
        cluster.execute(_ROLES)

    def new_project(self) -> str:
        """A database as a project has it, with perdure's migrations."""
        name = self.new_bare_project()
        migrations.apply(self.url(name), name, lambda _: None)
        return name

    def new_bare_project(self) -> str:
        name = self.cluster.create_database(f"project_{next(self._numbers)}", owner=OWNER)
        self.cluster.execute(_PROJECT, database=name)
        return name

    def copy_of(self, database: str) -> str:
        return self.cluster.create_database(f"copy_{next(self._numbers)}", template=database, owner=OWNER)

    def url(self, database: str, user: str = OWNER) -> str:
        return self.cluster.url(database, user=user, password=PASSWORD)

    def superuser(self, database: str, statement: str | sql.Composable) -> list[tuple[Any, ...]]:
        return self.cluster.execute(statement, database=database)

    def owner(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        with self.connection(database, OWNER) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def connection(self, database: str, user: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with psycopg.connect(self.url(database, user), autocommit=True) as connection:
            yield connection

    @contextlib.contextmanager
    def api(self, database: str, user: str = "authenticator") -> Iterator[Api]:
        with self.connection(database, user) as connection:
            yield Api(connection)
