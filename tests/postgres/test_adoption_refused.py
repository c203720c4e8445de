"""Tables that are somebody else's, or that somebody else needs, are left alone, and the refusal says which they are."""

import pytest
from postgres.databases import Database
from postgres.founding_plan import ONE_PAIR, SESSIONS, TABLES

from perdure.errors import StoreError

THERE = "is there already and is not one of perdure's: it has ("


@pytest.mark.parametrize(
    ("table", "made_by"),
    [
        ("chat_sessions", "create table chat_sessions (id uuid primary key, title text)"),
        ("chat_sessions", SESSIONS.replace("user_id text,", "user_id text, tenant text,")),
        ("chat_sessions", SESSIONS.replace("user_id text,", "")),
        ("chat_sessions", SESSIONS.replace("user_id text,", "user_id uuid,")),
        ("chat_sessions", "create table chat_sessions ()"),
        ("chat_sessions", "create view chat_sessions as select 1 as id"),
        ("chat_sessions", "create materialized view chat_sessions as select 1 as id"),
        ("chat_sessions", "create sequence chat_sessions"),
        ("chat_sessions", "create type chat_sessions as (id uuid)"),
        ("chat_messages", SESSIONS + "create table chat_messages (id bigint primary key, body text)"),
        (
            "chat_messages",
            "create table chat_messages (id uuid, session_id uuid, role text, content text, created_at timestamptz, "
            "metadata jsonb) partition by range (created_at)",
        ),
        ("chat_files", TABLES + ONE_PAIR + "create table chat_files (id uuid primary key)"),
        ("chat_files", "create table chat_files ()"),
    ],
)
def test_a_table_of_the_same_name_that_is_not_the_founding_plans(database: Database, table: str, made_by: str) -> None:
    database.execute(made_by)
    refused = _refused(database)
    assert f"public.{table} {THERE}" in refused.what
    assert "Rename it or move it to another schema, or give perdure a database of its own." in refused.remedy


def test_the_columns_that_are_there_are_listed(database: Database) -> None:
    database.execute("create table chat_sessions (id uuid primary key, title varchar(20), at date)")
    assert f"{THERE}at date, id uuid, title text)" in _refused(database).what


def test_a_foreign_table_in_another_schema_of_the_search_path_is_no_hindrance(database: Database) -> None:
    database.execute(f"""
        create schema theirs;
        create table theirs.chat_sessions (title text);
        alter database {database.name} set search_path = theirs, public;
    """)
    database.migrate()
    assert database.execute("select * from theirs.chat_sessions") == []
    assert database.one("select count(*) from public.chat_sessions") == 0


@pytest.mark.parametrize(
    ("dependent", "named"),
    [
        ("create view busy as select session_id from chat_messages", "view busy depends on table chat_messages"),
        (
            "create table notes (session_id uuid references chat_sessions (id))",
            "constraint notes_session_id_fkey on table notes depends on table chat_sessions",
        ),
    ],
    ids=["view", "foreign key"],
)
def test_tables_that_others_depend_on_are_adopted_once_those_are_gone(
    database: Database, migrated_schema: str, dependent: str, named: str
) -> None:
    database.execute(TABLES + ONE_PAIR + dependent)
    refused = _refused(database)
    assert f"cannot be adopted: {named}." in refused.what
    assert "Drop the views or foreign keys that refer to them, migrate, and make them again." in refused.remedy
    database.execute("drop view if exists busy; drop table if exists notes")
    database.migrate()
    assert database.schema() == migrated_schema
    assert database.one("select count(*) from chat_messages") == 2


def test_tables_of_another_owner_are_not_taken(database: Database) -> None:
    role = f"newcomer_{database.name}"
    database.execute(TABLES + ONE_PAIR)
    database.execute(f"create role {role} login password 'secret'; grant create on schema public to {role}")
    database.execute(f"grant all on chat_sessions, chat_messages to {role}")
    refused = _refused(database, database.seen_by(role, "secret"))
    assert "must be owner of table chat_sessions" in refused.what
    assert "connect as the database's owner" in refused.remedy


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("update chat_messages set content = null where role = 'user'", 'null value in column "content"'),
        ("""update chat_messages set metadata = '{"a": "\\u0000"}'""", "unsupported Unicode escape sequence"),
    ],
    ids=["no content", "NUL in JSON"],
)
def test_a_row_that_cannot_be_kept_as_it_is_stops_everything(database: Database, row: str, why: str) -> None:
    database.execute(TABLES.replace("content text not null", "content text").replace("jsonb", "json") + ONE_PAIR)
    database.execute(row)
    assert why in _refused(database).what


def _refused(database: Database, by: Database | None = None) -> StoreError:
    before = database.catalog(), _rows(database)
    with pytest.raises(StoreError) as refused:
        (by or database).migrate()
    assert "Migration 0001 tables cannot run" in refused.value.what
    assert refused.value.what.endswith("Nothing of it was left behind.")
    assert (database.catalog(), _rows(database)) == before
    return refused.value


def _rows(database: Database) -> list[object]:
    tables = database.execute("select relname from pg_class where relname like 'chat%' and relkind in ('r', 'v', 'm')")
    return [database.execute(f"select t::text from public.{table} t order by 1") for (table,) in sorted(tables)]
