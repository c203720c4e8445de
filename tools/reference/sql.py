"""docs/reference/sql.md, from a migrated Postgres and the comments in sql/postgres/migrations."""

import re
from pathlib import Path

import psycopg

from tools.reference.source import table

__all__ = ["sql_page"]

MIGRATIONS = Path(__file__).parents[2] / "sql" / "postgres" / "migrations"


def sql_page(url: str) -> str:
    with psycopg.connect(url) as database:
        tables = "\n".join(
            f"### `{name}`\n\n{comment.removeprefix('perdure: ').capitalize()}\n\n{_columns(database, name)}"
            for name, comment in database.execute(_TABLES)
        )
        functions = database.execute(_FUNCTIONS).fetchall()
    described = _comments()
    sections = [
        (name, f"### `{name}`\n\n{described[name]}\n\n`{_signature(name, arguments, result)}`\n")
        for name, arguments, result in functions
    ]
    called = "\n".join(section for name, section in sections if not name.startswith("chat_"))
    inner = "\n".join(section for name, section in sections if name.startswith("chat_"))
    return f"""\
# SQL

The tables and functions that `perdure migrate` makes in Postgres and Supabase, all in the schema `public`. SQLite has
the same tables in its own words (`sql/sqlite`).

<!-- Made by `make reference`: change sql/postgres/migrations (a new file) instead. -->

Read the tables as you like; write through the functions alone. How to read them: [Postgres](../guides/postgres.md).

## Tables

{tables}
## Functions

Each is one transaction. `user_id` names the principal where a trusted caller asks (the owner, a service key); a user's
own token can be nobody else.

{called}
## Functions that these are made of

Not for callers: they may change with any migration.

{inner}"""


def _columns(database: psycopg.Connection[tuple[str, ...]], name: str) -> str:
    rows = database.execute(_COLUMNS, [f"public.{name}"]).fetchall()
    return table(
        ["column", "type", "", "default"],
        [[f"`{column}`", kind, must, f"`{default}`" if default else ""] for column, kind, must, default in rows],
    )


def _signature(name: str, arguments: str, result: str) -> str:
    text = f"{name}({arguments}) → {result}".replace("timestamp with time zone", "timestamptz")
    return re.sub(r" DEFAULT ([^,:)]+)(::\w+)?", lambda found: f" = {found[1].lower()}", text)


def _comments() -> dict[str, str]:
    """The comment above each function, of the newest migration that makes it."""
    found: dict[str, str] = {}
    for file in sorted(MIGRATIONS.glob("*.sql")):
        for comment, name in re.findall(
            r"((?:^--.*\n)+)create (?:or replace )?function public\.(\w+)", file.read_text(), re.MULTILINE
        ):
            said = (line.removeprefix("-- ") for line in comment.splitlines() if "──" not in line)
            found[name] = " ".join(" ".join(said).split())
    return found


_TABLES = """
    select c.relname, obj_description(c.oid) from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and obj_description(c.oid) like 'perdure: %'
     order by c.oid
"""

_COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' else '' end,
           pg_get_expr(d.adbin, d.adrelid)
      from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
     order by a.attnum
"""

_FUNCTIONS = """
    select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid) from pg_proc p
     where p.pronamespace = 'public'::regnamespace order by p.proname
"""
