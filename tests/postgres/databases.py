"""Databases as users have them before perdure comes: empty, of a role of their own, or with Supabase's roles."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql
from servers.postgres_cluster import PostgresCluster

from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.stores.postgres.functions import _as_text, _statement
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Json, Turn
from perdure.testing.turns import a_turn

_numbers = itertools.count()


@dataclass(frozen=True)
class Database:
    """One database, seen by one user."""

    cluster: PostgresCluster
    name: str
    user: str = "postgres"
    password: str | None = None

    @classmethod
    def new(cls, cluster: PostgresCluster, *, owner: str | None = None, options: str = "") -> Self:
        """An empty one, seen by the superuser. `options`: of CREATE DATABASE."""
        name = f"own_{next(_numbers)}"
        cluster.execute(f"create database {name} {f'owner {owner}' if owner else ''} {options}")
        return cls(cluster, name)

    def seen_by(self, user: str, password: str | None = None) -> Self:
        return replace(self, user=user, password=password)

    @property
    def url(self) -> str:
        return self.cluster.url(self.name, user=self.user, password=self.password)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """In autocommit."""
        return psycopg.connect(self.url, autocommit=True)

    def execute(self, statement: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, parameters: Sequence[Any] | None = None) -> Any:
        ((value,),) = self.execute(statement, parameters)
        return value

    def migrate(self) -> list[str]:
        """As `perdure migrate` does, in this process. Returns the lines it tells."""
        lines: list[str] = []
        migrations.apply(self.url, self.name, lines.append)
        return lines

    def store(self, **options: Any) -> PostgresStore:
        return PostgresStore(self.url, **options)

    def schema(self) -> str:
        """Everything in `public`, with owners and grants, as pg_dump writes it."""
        command = [self.cluster.binaries / "pg_dump", "--schema-only", "--schema=public", f"--dbname={self.url}"]
        dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return "\n".join(line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))

    def catalog(self) -> list[tuple[Any, ...]]:
        """Other than before if anything in `public` was made, changed or dropped since: cheaper than `schema`."""
        of_tables = ("pg_attribute attrelid", "pg_policy polrelid", "pg_trigger tgrelid", "pg_attrdef adrelid")
        looks = [
            "select 'pg_class', oid::text, xmin::text from pg_class where relnamespace = 'public'::regnamespace",
            "select 'pg_proc', oid::text, xmin::text from pg_proc where pronamespace = 'public'::regnamespace",
            "select 'pg_constraint', oid::text, xmin::text from pg_constraint"
            " where connamespace = 'public'::regnamespace",
            *(
                f"select '{catalog}', x.ctid::text, x.xmin::text from {catalog} x"
                f" join pg_class c on c.oid = x.{column} where c.relnamespace = 'public'::regnamespace"
                for catalog, column in map(str.split, of_tables)
            ),
        ]
        return sorted(self.execute(" union all ".join(looks)))

    def records(self) -> list[tuple[Any, ...]]:
        return self.execute("select * from perdure_migrations order by version")


def perdure(*arguments: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    return subprocess.run(
        [*PERDURE, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


class Functions:
    """The SQL functions over one connection, called as a role, on behalf of `principal`: what a store stands on."""

    def __init__(self, database: Database, role: str, principal: str) -> None:
        self.where = database.name
        self.timeout = 60.0
        self.role = role
        self.principal = principal
        self.connection = as_role(database.connect(), role, json.dumps({"sub": principal}))
        self.store = SqlFunctionStore(self)

    def call(self, function: str, arguments: Mapping[str, Json], **_how: Any) -> Json:
        given = {name: _as_text(value) for name, value in arguments.items() if value is not None}
        (answer,) = self.connection.execute(_statement(function, tuple(given)), given).fetchone() or (None,)
        return answer

    def __call__(self, function: str, **arguments: Json) -> Json:
        """Of the principal's own, unless `arguments` name another."""
        return self.call(function, {"user_id": self.principal, **arguments})

    def turn(self, prompt: str = "", continuation_id: str = "c", **changes: Any) -> Turn:
        return a_turn(prompt, **{"continuation_id": continuation_id, "principal": self.principal, **changes})

    def close(self) -> None:
        self.connection.close()


PERDURE = [sys.executable, "-c", "from perdure.cli import main; main()"]


def as_role(
    connection: psycopg.Connection[tuple[Any, ...]], role: str, claims: str | None = None
) -> psycopg.Connection[tuple[Any, ...]]:
    """`connection` from now on as PostgREST sets it up for a caller: the role, and the claims of the token as JSON."""
    connection.execute("reset role")
    connection.execute("select set_config('request.jwt.claims', %s, false)", [claims or ""])
    connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    return connection
