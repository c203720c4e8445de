"""Each role may do what the functions need and no more, whatever the database granted before perdure came."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from postgres.databases import Database, as_role
from servers.postgres_cluster import PostgresCluster

TABLES = [
    "chat_sessions",
    "chat_messages",
    "chat_files",
    "chat_forks",
    "chat_words",
    "chat_words_due",
    "perdure_migrations",
]
OF_TABLES = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"]
THEN = datetime(2026, 1, 1, tzinfo=UTC)

OWN_CONVERSATIONS = {
    "begin_turn",
    "finish_turn",
    "renew_turns",
    "read_turns",
    "list_conversations",
    "list_conversations_with_ends",
    "list_files",
    "search_messages",
    "find_messages",
    "begin_turn_up_to",
    "begin_turn_in_line",
    "begin_turns",
    "finish_turns",
    "read_turns_in_line",
    "chat_found",
    "chat_heir",
    "chat_line",
    "chat_joined",
    "chat_keep_file",
    "chat_principal",
    "chat_subject",
    "chat_tenant",
    "chat_trusted",
    "chat_turns",
}
MAY_CALL = {
    "public": set(),
    "anon": set(),
    "authenticated": OWN_CONVERSATIONS,
    "service_role": OWN_CONVERSATIONS
    | {"purge_expired", "delete_conversation", "store_status"}
    | {"remove_expired", "remove_conversation", "forget_user", "chat_remove", "store_statistics"}
    | {"chat_only_for_forks", "fork_conversation", "keep_words"},
}
READ_AND_ADD = {(table, right) for table in TABLES[:3] for right in ("SELECT", "INSERT")}
MAY_TOUCH = {
    "public": set(),
    "anon": set(),
    "authenticated": READ_AND_ADD | {("chat_forks", "SELECT"), ("chat_words", "SELECT"), ("chat_words_due", "INSERT")},
    "service_role": READ_AND_ADD
    | {("chat_forks", "SELECT"), ("chat_forks", "INSERT"), ("perdure_migrations", "SELECT")}
    | {("chat_sessions", "DELETE"), ("chat_messages", "DELETE"), ("chat_files", "DELETE")}
    | {("chat_words", right) for right in ("SELECT", "INSERT")}
    | {("chat_words_due", right) for right in ("SELECT", "INSERT", "DELETE")},
}
OF_TURNS = {
    *(("chat_sessions", column) for column in ("last_place", "continuation_id", "updated_at", "expires_at")),
    ("chat_messages", "lease_until"),
}
MAY_UPDATE = {
    "public": set(),
    "anon": set(),
    "authenticated": OF_TURNS,
    "service_role": OF_TURNS | {("chat_words", column) for column in ("created_at", "user_id", "words")},
}

API = ["anon", "authenticated", "service_role"]

DEFAULTS = {
    "before October 2026": f"""
        alter default privileges for role project in schema public grant all on tables to {", ".join(API)};
        alter default privileges for role project in schema public grant all on functions to {", ".join(API)};
        alter default privileges for role project in schema public grant all on sequences to {", ".join(API)};
    """,
    "since October 2026": "alter default privileges for role project revoke execute on functions from public;",
}


@pytest.fixture(scope="module", params=DEFAULTS)
def project(request: pytest.FixtureRequest, supabase: PostgresCluster) -> Database:
    """A migrated Supabase project, seen by the user who migrated it."""
    database = Database.new(supabase, owner="project")
    database.execute(f"grant usage on schema public to {', '.join(API)}; revoke all on schema public from public")
    database.execute(DEFAULTS[request.param])
    owned = database.seen_by("project", "secret")
    owned.execute("create table neighbour (n int)")
    given = owned.one("select has_table_privilege('anon', 'neighbour', 'TRUNCATE')")
    assert given == (request.param == "before October 2026")
    owned.execute("drop table neighbour")
    owned.migrate()
    return owned


@pytest.mark.parametrize("role", MAY_TOUCH)
def test_a_role_may_touch_what_the_functions_need_and_no_more(project: Database, role: str) -> None:
    has = "select t, r from unnest(%s::text[]) t, unnest(%s::text[]) r where has_table_privilege(%s, t, r)"
    assert set(project.execute(has, [TABLES, OF_TABLES, role])) == MAY_TOUCH[role]
    by_column = """
        select c.relname, a.attname, r from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0,
               unnest(array['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) r
         where c.relname = any (%s) and has_column_privilege(%s, c.oid, a.attnum, r)
           and not has_table_privilege(%s, c.oid, r)
    """
    found = set(project.execute(by_column, [TABLES, role, role]))
    assert found == {(*column, "UPDATE") for column in MAY_UPDATE[role]}


@pytest.mark.parametrize("role", MAY_CALL)
def test_a_role_may_call_what_it_needs_and_no_more(project: Database, role: str) -> None:
    has = """
        select proname from pg_proc where pronamespace = 'public'::regnamespace
           and has_function_privilege(%s, oid, 'EXECUTE')
    """
    assert {name for (name,) in project.execute(has, [role])} == MAY_CALL[role]
    everything = project.one("select count(*) from pg_proc where pronamespace = 'public'::regnamespace")
    assert everything == len(MAY_CALL["service_role"] | {"chat_prepare_storage", "chat_await_words"})


# ── really called ────────────────────────────────────────────────────────────────────────────────────────────

BEGIN = """
    select begin_turn(
      turn_id => gen_random_uuid(), user_id => %(user)s, continuation_id => %(id)s, tool => 'chat', digest => 'd',
      content => 'a question', body => null, started_at => now(), lease_until => now(), expires_at => %(until)s)
"""
FINISH = """
    select finish_turn(
      turn_id => %(turn)s, answer_id => gen_random_uuid(), user_id => %(user)s, digest => 'd', outcome => 'answered',
      answer => 'an answer', answer_body => null, tokens => 1, ended_at => now(), files => json_build_array(
        json_build_object(
          'name', 'n', 'bucket', 'b', 'key', %(user)s || '/k', 'size', 1, 'media_type', '', 'sha256', repeat('0', 64))))
"""


RENEW = (
    "select renew_turns(json_build_object(%(user)s::text, json_build_array(%(turn)s::text)), now() + interval '1 hour')"
)


def test_a_users_token_can_do_everything_with_what_is_its_own(project: Database) -> None:
    with project.connect() as connection:
        as_role(connection, "authenticated", json.dumps({"sub": "alice", "role": "authenticated"}))
        call = _caller(connection)
        begun = call(BEGIN, user="alice", id="c", until=None)
        assert (begun["status"], begun["place"]) == ("new", 1)
        assert call(RENEW, user="alice", turn=begun["turn_id"]) == {"renewed": 1}
        assert call(FINISH, user="alice", turn=begun["turn_id"])["files"][0]["version"] == 1
        again = call(BEGIN, user=None, id="c", until=None)  # nobody named: the token says who it is
        assert [turn["answer"] for turn in again["history"]] == ["an answer"]
        assert len(call("select read_turns('alice', 'c')")["turns"]) == 2
        assert [line["continuation_id"] for line in call("select list_conversations()")["conversations"]] == ["c"]
        assert len(call("select list_files('alice')")["files"]) == 1
        assert len(call("select search_messages('alice', 'answer')")["hits"]) == 1
        call(BEGIN, user="alice", id="brief", until=THEN)
        assert call(BEGIN, user="alice", id="brief", until=None)["place"] == 1  # the expired one made way


@pytest.mark.parametrize("claims", ['{"sub": "bob"}', '{"sub": ""}', '{"sub": null}', "{}", "null", "", None])
def test_a_token_of_somebody_else_or_of_nobody_can_do_nothing_with_it(project: Database, claims: str | None) -> None:
    with project.connect() as connection:
        call = _caller(as_role(connection, "service_role"))
        kept = call(BEGIN, user="alice", id=f"of alice {claims}", until=None)
        call = _caller(as_role(connection, "authenticated", claims))
        for statement in (
            BEGIN,
            FINISH,
            RENEW,
            "select read_turns(%(user)s, %(id)s)",
            "select list_conversations(%(user)s)",
            "select list_files(%(user)s)",
            "select search_messages(%(user)s, 'question')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="This token may not act for that user"):
                call(statement, user="alice", id="c", turn=kept["turn_id"], until=None)
        assert connection.execute("select * from chat_sessions where user_id = 'alice'").fetchall() == []
        assert connection.execute("select * from chat_messages where user_id = 'alice'").fetchall() == []


def test_the_service_key_acts_for_whom_it_names_and_purges(project: Database) -> None:
    with project.connect() as connection:
        call = _caller(as_role(connection, "service_role"))
        begun = call(BEGIN, user="carol", id="brief", until=THEN + timedelta(days=1))
        assert call(RENEW, user="dave", turn=begun["turn_id"]) == {"renewed": 0}
        assert call(RENEW, user="carol", turn=begun["turn_id"]) == {"renewed": 1}
        assert call(FINISH, user="carol", turn=begun["turn_id"])["status"] == "finished"
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="user_id is required"):
            call(BEGIN, user=None, id="c", until=None)
        listed = call("select list_conversations(at => '2026-01-01')")["conversations"]
        assert "carol" in [line["user_id"] for line in listed]
        assert call("select purge_expired(at => '2026-01-03')")["files"] == [{"bucket": "b", "key": "carol/k"}]
        assert call("select read_turns('carol', 'brief', at => '2026-01-01')")["turns"] == []


@pytest.mark.parametrize(
    "statement",
    [
        "select * from chat_sessions",
        "insert into chat_sessions (continuation_id, user_id) values ('c', 'alice')",
        "select read_turns('alice', 'c')",
        "select list_conversations()",
        "select chat_trusted()",
        "select chat_tenant('alice')",
        "select purge_expired()",
        "truncate chat_files",
    ],
)
def test_a_caller_without_a_token_is_refused_everything(project: Database, statement: str) -> None:
    with (
        project.connect() as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"),
    ):
        as_role(connection, "anon", '{"sub": "alice"}').execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "delete from chat_sessions where user_id = 'alice'",
        "delete from chat_messages where user_id = 'alice'",
        "update chat_messages set content = 'other' where user_id = 'alice'",
        "update chat_sessions set user_id = 'bob' where user_id = 'alice'",
        "truncate chat_sessions cascade",
        "select * from perdure_migrations",
        "select purge_expired()",
        "select delete_conversation('alice', 'c')",
        "select remove_expired()",
        "select remove_conversation('alice', 'c')",
        "select forget_user('alice')",
        "select chat_remove('{}', now(), false)",
        "select fork_conversation('alice', 'c', 1, 'fork')",
        "insert into chat_forks select id, id, 1, user_id from chat_sessions",
        "select store_statistics('alice')",
        "select store_status()",
        "select chat_prepare_storage()",
        "alter table chat_sessions disable row level security",
    ],
)
def test_a_users_token_may_not_undo_what_was_kept(project: Database, statement: str) -> None:
    with project.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_role(connection, "authenticated", '{"sub": "alice"}').execute(statement.encode())


def _caller(connection: psycopg.Connection[tuple[Any, ...]]) -> Callable[..., Any]:
    def call(statement: str, **parameters: Any) -> Any:
        (answer,) = connection.execute(statement.encode(), parameters).fetchone() or (None,)
        return answer

    return call
