"""What somebody tries who speaks SQL as `authenticated`, one attack after the other, each with its proof that the
same statement would succeed for somebody who may."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from isolation.conftest import Settled
from isolation.supabase_like import Api, Reply, token
from isolation.tenants import Tenant

DENIED = "42501"


@pytest.fixture
def stranger(settled: Settled) -> Iterator[Api]:
    """A login of his own: a member of `authenticated`, and of no other role."""
    with settled.project.api(settled.database, "stranger") as api:
        yield api


def is_clean(reply: Reply, victim: Tenant) -> bool:
    return victim.seen_in(reply.text) is None


# ── becoming somebody else ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "statement",
    [
        "set role service_role",
        "set local role project_owner",
        "select set_config('role', 'service_role', true)",
        "select set_config('role', 'postgres', false)",
        "set session authorization service_role",
        "select set_config('session_authorization', 'postgres', true)",
        "alter role authenticated bypassrls",
        "grant service_role to authenticated",
        "grant project_owner to stranger",
        "alter table public.chat_sessions owner to authenticated",
        "set session_replication_role = replica",
        "create role mine bypassrls",
    ],
)
def test_nobody_becomes_trusted(statement: str, stranger: Api) -> None:
    assert stranger.as_user("mallory", statement).state == DENIED
    assert stranger.as_user("mallory", "select public.chat_trusted()").rows == [(False,)]


def test_only_whoever_speaks_sql_on_the_api_s_own_login_can_change_its_role(api: Api) -> None:
    """The limit of all isolation by PostgREST: what keeps its callers from this is that they cannot send SQL. So no
    function may run text of theirs; see `test_functions`."""
    assert api.as_user("mallory", "set local role service_role; select public.chat_trusted()").rows == [(True,)]


def test_row_security_switched_off_by_its_subject_refuses_instead(api: Api, settled: Settled) -> None:
    for table in ("chat_sessions", "chat_messages", "chat_files"):
        reply = api.as_user("mallory", f"set local row_security = off; select * from public.{table}")
        assert reply.state == DENIED
    assert api.as_user("mallory", "set local row_security = off; select public.chat_trusted()").rows == [(False,)]
    reply = api.as_user("mallory", "set local row_security = off; select public.read_turns('alice', 'the-same-id')")
    assert reply.state == DENIED
    assert is_clean(reply, settled.alice)


@pytest.mark.parametrize(
    "statement",
    [
        "alter table public.chat_messages disable row level security",
        "alter table public.chat_messages no force row level security",
        "create policy mine on public.chat_messages using (true)",
        "alter policy own on public.chat_messages using (true)",
        "drop policy own on public.chat_messages",
        "create trigger t before update on public.chat_messages "
        "for each row execute function suppress_redundant_updates_trigger()",
        "create rule r as on insert to public.chat_messages do also nothing",
        "create function public.leak(text) returns boolean language sql as 'select true'",
        "create or replace function public.chat_trusted() returns boolean language sql as 'select true'",
        "create operator public.<<< (leftarg = text, rightarg = text, function = texteq)",
        "create view public.v as select * from public.chat_messages",
        "create table public.chat_shadow (id int)",
        "create schema mine",
        "create index on public.chat_messages (content)",
        "create statistics s (mcv) on user_id, content from public.chat_messages",
        "create publication p for table public.chat_messages",
        "alter function public.read_turns security definer",
        "alter table public.chat_messages add column x int",
        "lock table public.chat_messages in share row exclusive mode",
        "copy public.chat_messages to '/tmp/loot'",
        "copy public.chat_messages to program 'cat > /tmp/loot'",
        "select pg_read_file('postgresql.conf')",
        "select lo_import('/etc/passwd')",
        "select * from pg_statistic",
        "select * from pg_authid",
        "select * from public.perdure_migrations",
        "reindex table public.chat_messages",
        "comment on table public.chat_messages is 'mine'",
        "create temp table t (session_id uuid references public.chat_sessions)",
        "create language plpython3u",
        "create extension dblink",
    ],
)
def test_the_tables_and_what_protects_them_cannot_be_changed(statement: str, stranger: Api) -> None:
    reply = stranger.as_user("mallory", statement)
    assert reply.error is not None
    assert reply.state in {DENIED, "0A000", "42P16", "58P01"}, reply.text
    if reply.state != DENIED:  # refused before rights were looked at
        assert "extension" in statement or "language" in statement or "references" in statement, reply.text


# ── reading around the policies ──────────────────────────────────────────────────────────────────────────────────────


def test_a_function_of_ones_own_sees_no_row_before_the_policy_does(stranger: Api, settled: Settled) -> None:
    stranger.as_user(
        "mallory",
        "create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0001 as "
        "$x$ begin raise notice 'saw %', $1; return true; end $x$",
    )
    for table, column in {"chat_messages": "content", "chat_sessions": "continuation_id", "chat_files": "name"}.items():
        reply = stranger.as_user("mallory", f"select 1 from public.{table} where pg_temp.leak({column})")
        assert any("canarymallory" in notice for notice in reply.notices), "it was not called at all"
        assert is_clean(reply, settled.alice)
        assert is_clean(reply, settled.tenants["bob"])


def test_a_function_of_ones_own_may_not_be_called_leakproof(stranger: Api) -> None:
    statement = "create function pg_temp.f(text) returns boolean language sql leakproof as 'select true'"
    assert stranger.as_user("mallory", statement).state == DENIED


@pytest.mark.parametrize(
    "expression",
    [
        "content::int",
        "content::uuid",
        "content::json",
        "(1 / (length(content) - length(content)))::int",
        "('{' || content)::int[]",
    ],
)
def test_an_error_in_a_condition_names_no_value_of_another(expression: str, stranger: Api, settled: Settled) -> None:
    reply = stranger.as_user("mallory", f"select 1 from public.chat_messages where ({expression})::text <> ''")
    assert reply.error is not None
    assert is_clean(reply, settled.alice)
    assert is_clean(reply, settled.tenants["bob"])


@pytest.mark.parametrize("table", ["chat_sessions", "chat_messages", "chat_files"])
def test_copy_gives_out_only_ones_own_rows_and_takes_none_in(table: str, settled: Settled) -> None:
    with settled.project.connection(settled.database, "stranger") as connection, connection.cursor() as cursor:
        cursor.execute("select set_config('request.jwt.claims', %s, false)", [token("mallory")])
        with cursor.copy(f"copy public.{table} to stdout") as copy:
            loot = b"".join(copy).decode()
        assert "mallory" in loot
        assert settled.alice.seen_in(loot) is None
        assert "alice" not in loot
        with pytest.raises(psycopg.Error) as caught, cursor.copy(f"copy public.{table} from stdin") as copy:
            copy.write("x")
        assert caught.value.sqlstate in {"0A000", DENIED}


def test_a_temporary_table_of_the_same_name_deceives_no_function(api: Api, settled: Settled) -> None:
    """`pg_temp` comes before everything else in every search path that does not name it."""
    api.as_user(
        "mallory",
        "create temp table chat_sessions (id uuid, continuation_id text, user_id text, last_place bigint, "
        "metadata jsonb, minted boolean, created_at timestamptz, updated_at timestamptz, expires_at timestamptz); "
        "create temp table chat_messages (id uuid, session_id uuid, content text); "
        "insert into pg_temp.chat_sessions select gen_random_uuid(), 'the-same-id', 'mallory'; "
        "create function pg_temp.chat_trusted() returns boolean language sql as 'select true'; "
        "create function pg_temp.chat_principal(text) returns text language sql as 'select ''alice'''; "
        "create function pg_temp.row_security_active(text) returns boolean language sql as 'select false'; "
        "create function pg_temp.pg_has_role(name, oid, text) returns boolean language sql as 'select true'; "
        "create function pg_temp.current_setting(text, boolean) returns text language sql as "
        '$$ select \'{"sub": "alice"}\' $$',
    )
    opening = "set local search_path = pg_temp, public, pg_catalog; "
    assert api.as_user("mallory", opening + "select public.chat_trusted()").rows == [(False,)]
    assert api.as_user("mallory", opening + "select public.chat_principal(null)").rows == [("mallory",)]
    reply = api.as_user("mallory", opening + "select public.read_turns(null, 'the-same-id')")
    assert "canarymallory" in reply.text
    assert is_clean(reply, settled.alice)
    reply = api.as_user("mallory", opening + "select * from public.chat_messages")
    assert "canarymallory" in reply.text
    assert is_clean(reply, settled.alice)


def test_a_plan_made_for_one_caller_serves_no_other(api: Api, settled: Settled) -> None:
    """PostgREST sends the requests of all roles and users over the same connections."""
    prepared = api.request("prepare mine as select content from public.chat_messages", role="service_role")
    assert prepared.error is None
    everything = len(api.request("execute mine", role="service_role").rows)
    for _ in range(7):  # after the fifth time a generic plan is made
        for name in ("alice", "mallory", "bob"):
            reply = api.as_user(name, "execute mine")
            assert 0 < len(reply.rows) < everything
            turns = api.as_user(name, "select public.read_turns(null, 'the-same-id')")
            assert f"canary{name}" in turns.text
            for other in settled.tenants.values():
                assert is_clean(reply, other) is is_clean(turns, other) is (other.name != name)
        assert api.request("execute mine", role="anon").state == DENIED
        assert len(api.request("execute mine", role="service_role").rows) == everything


def test_a_call_leaves_nothing_in_its_session_for_the_next_caller(api: Api) -> None:
    api.as_user("alice", "select public.read_turns(null, 'the-same-id'); select public.search_messages(null, 'asks')")
    api.request("select public.list_files('alice')", role="service_role")
    left = api.as_user(
        "mallory",
        "select count(*) from pg_class where relnamespace = pg_my_temp_schema() "
        "union all select count(*) from pg_cursors union all select count(*) from pg_prepared_statements "
        "union all select count(*) from pg_locks where locktype = 'advisory'",
    )
    assert left.rows == [(0,)] * 4
    assert api.request("select current_setting('request.jwt.claims', true)", role="authenticated").rows in (
        [("",)],
        [(None,)],
    )


# ── what the server knows about rows and statements ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", ["authenticated", "anon"])
def test_statistics_of_columns_are_not_shown(role: str, api: Api, settled: Settled) -> None:
    views = [f"select s::text from {view} s" for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs")]
    everything = settled.project.superuser(settled.database, f"{views[0]} where schemaname = 'public'")
    assert settled.alice.seen_in(str(everything)), "there is nothing to see, so this test would show nothing"
    reply = api.request(" union all ".join(views), role=role, claims=token("mallory"))
    assert reply.rows
    assert is_clean(reply, settled.alice)
    for view in views:
        assert api.request(f"{view} where schemaname = 'public'", role=role, claims=token("mallory")).rows == []


@pytest.mark.parametrize("role", ["authenticated", "anon"])
def test_statements_of_others_are_not_shown(role: str, api: Api, settled: Settled) -> None:
    with (
        settled.project.api(settled.database) as other,
        settled.project.connection(settled.database, "project_owner") as server,
    ):
        other.as_user("alice", "select 'canaryalice' from public.chat_sessions")
        server.execute("select 'canaryalice' from public.chat_sessions")
        seen = settled.project.superuser(settled.database, "select query from pg_stat_activity")
        assert any("canaryalice" in str(query) for (query,) in seen)
        reply = api.request("select a::text from pg_stat_activity a", role=role, claims=token("mallory"))
    assert len(reply.rows) > 2
    assert is_clean(reply, settled.alice)


# ── writing among another's rows ─────────────────────────────────────────────────────────────────────────────────────


def message(session: str, *, user: str, turn: str | None = None, id: str | None = None) -> str:  # noqa: A002
    turn = turn or str(uuid.uuid4())
    return (
        "insert into public.chat_messages (id, session_id, turn_id, turn_seq, part, role, content, user_id, tool, "
        f"digest) values ('{id or turn}', '{session}', '{turn}', 77, 0, 'user', 'planted', '{user}', 'chat', 'd')"
    )


def file(session: str, *, user: str, turn: str | None = None, key: str = "") -> str:
    return (
        "insert into public.chat_files (session_id, turn_id, version, size, user_id, name, bucket, key, sha256, "
        f"media_type) values ('{session}', '{turn or uuid.uuid4()}', 1, 1, '{user}', 'planted.txt', 'mcp-files', "
        f"'{key or user + '/' + 'f' * 64 + '/planted.txt'}', '{'f' * 64}', 'text/plain')"
    )


def test_nothing_is_written_into_another_s_conversation_or_under_another_s_name(api: Api, settled: Settled) -> None:
    own, theirs = settled.tenants["mallory"].known_sessions[0], settled.alice.known_sessions[0]
    for insert in (message, file):
        assert api.as_user("mallory", insert(own, user="mallory")).error is None
        for session, user in ((theirs, "mallory"), (theirs, "alice"), (own, "alice")):
            reply = api.as_user("mallory", insert(session, user=user))
            assert reply.state == DENIED
            assert is_clean(reply, settled.alice)


def test_another_s_conversation_and_none_at_all_are_refused_in_the_same_words(api: Api, settled: Settled) -> None:
    """The foreign key, which does know the difference, is looked at after the policy."""
    for insert in (message, file):
        theirs = api.as_user("mallory", insert(settled.alice.known_sessions[0], user="mallory"))
        nobodys = api.as_user("mallory", insert(str(uuid.uuid4()), user="mallory"))
        assert theirs.error is not None
        assert theirs.text == nobodys.text


@pytest.mark.parametrize(
    "statement",
    [
        "update public.chat_sessions set user_id = 'alice'",
        "update public.chat_sessions set id = gen_random_uuid()",
        "update public.chat_sessions set metadata = '{}'",
        "update public.chat_messages set content = 'x'",
        "update public.chat_files set key = 'x'",
        "delete from public.chat_sessions",
        "delete from public.chat_messages",
        "delete from public.chat_files",
        "select public.delete_conversation('mallory', 'the-same-id')",
        "truncate public.chat_sessions, public.chat_messages, public.chat_files",
    ],
)
def test_even_one_s_own_rows_cannot_be(statement: str, api: Api) -> None:
    assert api.as_user("mallory", statement).state == DENIED


@pytest.mark.parametrize("claims", ['{"sub": 7}', '{"sub": true}', '{"sub": {"sub": "alice"}}', '{"sub": ["alice"]}'])
def test_a_subject_that_is_no_string_is_nobody_else(claims: str, api: Api, settled: Settled) -> None:
    reply = api.request("select * from public.chat_messages", claims=claims)
    assert (reply.rows, reply.error) == ([], None)
    asked = api.request("select public.chat_principal(null)", claims=claims)
    assert asked.rows != [("alice",)]


@pytest.mark.parametrize("claims", [None, "", "{}", "null", "[]", '"alice"', "7", '{"sub": null}', '{"sub": ""}'])
def test_without_a_subject_there_is_no_row_and_no_call(claims: str | None, api: Api) -> None:
    for table in ("chat_sessions", "chat_messages", "chat_files"):
        reply = api.request(f"select * from public.{table}", claims=claims)
        assert (reply.rows, reply.error) == ([], None)
    for asked in ("null", "'alice'", "''"):
        assert api.request(f"select public.read_turns({asked}, 'the-same-id')", claims=claims).state == DENIED


@pytest.mark.parametrize("claims", ["alice", "{", '{"sub": "alice"', "{'sub': 'alice'}", '{"sub": "alice"} x'])
def test_claims_that_are_no_json_refuse_everything(claims: str, api: Api, settled: Settled) -> None:
    for statement in ("select * from public.chat_messages", "select public.read_turns('alice', 'the-same-id')"):
        reply = api.request(statement, claims=claims)
        assert reply.state == "22P02"
        assert is_clean(reply, settled.alice)


def test_the_last_of_two_subjects_counts_everywhere_alike(api: Api) -> None:
    claims = '{"sub": "alice", "sub": "mallory"}'
    reply = api.request("select distinct user_id from public.chat_messages", claims=claims)
    assert reply.rows == [("mallory",)]
    assert api.request("select public.chat_principal(null)", claims=claims).rows == [("mallory",)]


def test_a_file_in_the_bucket_is_reached_only_by_its_tenant(api: Api, settled: Settled) -> None:
    reply = api.as_user("mallory", "select * from storage.objects")
    assert "canarymallory" in reply.text
    assert is_clean(reply, settled.alice)
    insert = "insert into storage.objects (bucket_id, name) values ('mcp-files', %s)"
    assert api.as_user("mallory", insert, ["mallory/x/y"]).error is None
    for name in ("alice/x/y", "mallory/../alice/x", "/mallory/x", "Mallory/x/y", "", "mallory\\x", "h-x/y"):
        reply = api.as_user("mallory", insert, [name])
        assert (reply.state == DENIED) is (name.split("/")[0] != "mallory"), name
    for claims in (None, "{}", '{"sub": null}'):
        assert api.request(insert, ["/x/y"], claims=claims).state == DENIED
        assert api.request("select * from storage.objects", claims=claims).rows == []
