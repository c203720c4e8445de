"""The stand-in for PostgREST: calls run in Postgres as who the token says, and refusals read as the real ones."""

import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from postgrest.exceptions import APIError
from servers.gateway import GatewayOptions
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from servers.unprivileged import wait_until
from supabase import Client, ClientOptions, create_client

QUICK = GatewayOptions(
    statement_timeouts={"anon": "100ms", "authenticated": "8s", "service_role": "1s"},
    rest_pool=4,
    pool_patience=0.5,
)
Connect = Callable[..., Client]
fresh_ids = (str(uuid.uuid4()) for _ in itertools.count())


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster(fsync=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def project(cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(cluster, options=QUICK) as project:
        project.execute(
            "create function public.fails(state text) returns json language plpgsql as $$ begin"
            "  raise exception 'as asked' using errcode = state, detail = 'why', hint = 'what now'; end $$;"
            "create function public.sleeps(seconds float) returns void language sql as $$ select pg_sleep(seconds) $$;"
            "create function public.many(n int) returns setof int language sql stable"
            "  as $$ select generate_series(1, n) $$;"
            "create function public.writes() returns int language sql"
            "  as $$ delete from public.chat_sessions where false; select 1 $$;"
            "create function public.writes_though_stable() returns int language sql stable"
            "  as $$ select public.writes() $$;"
            "create function public.waits() returns void language sql set statement_timeout = '20s'"
            "  as $$ select pg_advisory_xact_lock(1) $$;"
            "create function public.nothing() returns text language sql as $$ select null::text $$;"
            "create function public.who() returns json language sql stable as $$ select json_build_object("
            "  'role', current_user, 'sub', current_setting('request.jwt.claims', true)::json ->> 'sub') $$;"
        )
        project.restart()  # so that it knows them
        yield project


@pytest.fixture(autouse=True)
def _empty(project: SupabaseStack) -> None:
    project.empty()


@pytest.fixture
def connect(project: SupabaseStack) -> Iterator[Connect]:
    http = httpx.Client(http2=False, follow_redirects=False, timeout=10)

    def connect(key: str | None = None, token: str | None = None) -> Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return create_client(project.url, key or project.service_key, ClientOptions(httpx_client=http, headers=headers))

    yield connect
    http.close()


def begin(user: str = "local", **more: Any) -> dict[str, Any]:
    at = {"started_at": "2026-01-01T00:00:00Z", "lease_until": "2026-01-01T00:10:00Z"}
    turn = {"turn_id": next(fresh_ids), "continuation_id": "chat-1", "tool": "chat", "digest": "d", "user_id": user}
    return {**turn, **at, "content": "hello", "body": None, **more}


def finish(turn: dict[str, Any]) -> dict[str, Any]:
    ending = {"answer_id": next(fresh_ids), "outcome": "answered", "answer": "hi", "answer_body": None, "tokens": 2}
    named = {name: turn[name] for name in ("turn_id", "user_id", "digest")}
    return {**named, **ending, "ended_at": "2026-01-01T00:00:01Z"}


def refusal(call: Callable[[], Any]) -> APIError:
    with pytest.raises(APIError) as caught:
        call()
    return caught.value


def post(project: SupabaseStack, function: str, body: Any = None, **headers: str) -> httpx.Response:
    sent = {"apikey": project.service_key, "Authorization": f"Bearer {project.service_key}", **headers}
    kept = {name: value for name, value in sent.items() if value}
    content = {"content": body} if isinstance(body, bytes) else {"json": body or {}}
    return httpx.post(f"{project.url}/rest/v1/rpc/{function}", headers=kept, timeout=10, **content)


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_turn_is_begun_and_finished_with_every_kind_of_service_key(project: SupabaseStack, connect: Connect) -> None:
    for place, key in enumerate((project.service_key, project.secret_key), 1):
        turn = begin()
        begun = connect(key).rpc("begin_turn", turn).execute().data
        assert (begun["status"], begun["turn_id"], begun["place"]) == ("new", turn["turn_id"], place)
        assert connect(key).rpc("finish_turn", finish(turn)).execute().data["status"] == "finished"
    assert [turn["answer"] for turn in connect().rpc("begin_turn", begin()).execute().data["history"]] == ["hi", "hi"]
    assert project.execute("select count(*) from public.chat_messages") == [(5,)]


def test_a_users_token_can_be_nobody_else(project: SupabaseStack, connect: Connect) -> None:
    for key in (project.anon_key, project.publishable_key):
        ann = connect(key, project.user_token("ann"))
        assert ann.rpc("begin_turn", begin("ann")).execute().data["status"] == "new"
        refused = refusal(lambda: ann.rpc("begin_turn", begin("bob")).execute())  # noqa: B023
        assert (refused.code, refused.message) == ("42501", "This token may not act for that user")
    connect().rpc("begin_turn", begin("bob")).execute()
    assert [line["user_id"] for line in ann.rpc("list_conversations", {}).execute().data["conversations"]] == ["ann"]


def test_with_row_security_off_a_users_token_can_be_anybody(cluster: PostgresCluster, connect: Connect) -> None:
    with SupabaseStack(cluster, rls=False) as open_project, httpx.Client() as http:
        token = {"Authorization": f"Bearer {open_project.user_token('ann')}"}
        ann = create_client(open_project.url, open_project.anon_key, ClientOptions(httpx_client=http, headers=token))
        assert ann.rpc("begin_turn", begin("bob")).execute().data["status"] == "new"


def test_the_anonymous_key_is_refused_by_postgres_with_401_and_a_user_with_403(
    project: SupabaseStack, connect: Connect
) -> None:
    assert refusal(lambda: connect(project.anon_key).rpc("begin_turn", begin()).execute()).code == "42501"
    anonymous = post(project, "begin_turn", begin(), apikey=project.anon_key, Authorization="")
    assert (anonymous.status_code, anonymous.headers["www-authenticate"]) == (401, "Bearer")
    assert anonymous.json()["message"] == "permission denied for function begin_turn"
    user = post(project, "begin_turn", begin("bob"), Authorization=f"Bearer {project.user_token('ann')}")
    assert user.status_code == 403


def test_the_role_and_the_claims_are_those_of_the_token(project: SupabaseStack) -> None:
    token = project.user_token("not-a-uuid")
    assert post(project, "who", Authorization=f"Bearer {token}").json() == {
        "role": "authenticated",
        "sub": "not-a-uuid",
    }
    assert post(project, "who", apikey=project.publishable_key, Authorization="").json()["role"] == "anon"
    assert post(project, "who", apikey=project.secret_key, Authorization="").json()["role"] == "service_role"


def test_a_wrong_key_is_refused_without_a_code(project: SupabaseStack, connect: Connect) -> None:
    refused = refusal(lambda: connect("sb_secret_wrong").rpc("who").execute())
    assert (refused.code, refused.message) == (None, "Invalid API key")
    assert post(project, "who", apikey="").json()["message"] == "No API key found in request"


@pytest.mark.parametrize(
    ("token", "code", "message"),
    [
        ("nonsense", "PGRST301", "Expected 3 parts in JWT; got 1"),
        ("forged", "PGRST301", "No suitable key or wrong key type"),
        ("expired", "PGRST303", "JWT expired"),
    ],
)
def test_a_bad_token_is_401_with_postgrests_code(project: SupabaseStack, token: str, code: str, message: str) -> None:
    good = project.user_token("ann")
    made = {"expired": project.user_token("ann", -60), "forged": f"{good[:-2]}{'AA' if good[-2:] != 'AA' else 'BB'}"}
    refused = post(project, "who", Authorization=f"Bearer {made.get(token, token)}")
    assert (refused.status_code, refused.json()["code"], refused.json()["message"]) == (401, code, message)
    assert refused.headers["proxy-status"] == f"PostgREST; error={code}"


def test_half_a_minute_of_clock_skew_is_allowed_and_version_12_has_its_own_code(cluster: PostgresCluster) -> None:
    with SupabaseStack(cluster, migrated=False, options=GatewayOptions(postgrest=12)) as project:
        project.execute("create function public.one() returns int language sql as 'select 1'")
        wait_until(lambda: post(project, "one").status_code == 200, "the new function stays unknown")
        token = {"Authorization": f"Bearer {project.user_token('ann', 5)}"}
        project.advance(30)
        assert post(project, "one", **token).json() == 1
        project.advance(10)
        assert post(project, "one", **token).json()["code"] == "PGRST301"


def test_a_role_that_does_not_exist_is_401(project: SupabaseStack) -> None:
    token = project.user_token("ann", role="nobody_such")
    refused = post(project, "who", Authorization=f"Bearer {token}")
    assert (refused.status_code, refused.json()["code"]) == (401, "22023")


def test_what_older_projects_grant_by_themselves_can_be_had(cluster: PostgresCluster) -> None:
    asked = "select has_table_privilege('anon', 'public.{}', 'select')"
    for old, granted in ((False, False), (True, True)):
        with SupabaseStack(cluster, old_grants=old) as project:
            with psycopg.connect(project.db_url, autocommit=True) as owner:
                owner.execute("create table public.other (n int)")
            assert project.execute(asked.format("other")) == [(granted,)]
            assert project.execute(asked.format("chat_messages")) == [(False,)], "perdure takes it back"


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_void_is_an_empty_list_null_is_none_and_a_set_is_cut_at_a_thousand(connect: Connect) -> None:
    assert connect().rpc("sleeps", {"seconds": 0}).execute().data == []
    assert connect().rpc("nothing").execute().data is None
    assert len(connect().rpc("many", {"n": 3000}).execute().data) == 1000
    assert connect().rpc("many", {"n": 0}).execute().data == []


def test_a_function_or_argument_that_is_not_there_is_404_with_the_real_body(project: SupabaseStack) -> None:
    unknown = post(project, "begin_turm")
    assert (unknown.status_code, unknown.json()) == (
        404,
        {
            "code": "PGRST202",
            "details": "Searched for the function public.begin_turm without parameters or with a single unnamed "
            "json/jsonb parameter, but no matches were found in the schema cache.",
            "hint": "Perhaps you meant to call the function public.begin_turn",
            "message": "Could not find the function public.begin_turm without parameters in the schema cache",
        },
    )
    misnamed = post(project, "many", {"m": 1, "n": 1}).json()
    assert misnamed["message"] == "Could not find the function public.many(m, n) in the schema cache"
    assert misnamed["details"].startswith("Searched for the function public.many with parameters m, n or with")
    assert post(project, "many").json()["code"] == "PGRST202"


def test_a_new_function_is_unknown_for_a_while(cluster: PostgresCluster) -> None:
    with SupabaseStack(cluster, migrated=False, options=GatewayOptions(schema_cache_delay=1.0)) as project:
        began = time.monotonic()
        project.execute("create function public.newborn() returns int language sql as 'select 1'")
        assert post(project, "newborn").json()["code"] == "PGRST202"
        wait_until(lambda: post(project, "newborn").status_code == 200, "it stays unknown")
        assert time.monotonic() - began >= 1.0


def test_not_migrated_yet_is_pgrst202(cluster: PostgresCluster) -> None:
    with SupabaseStack(cluster, migrated=False) as project:
        assert post(project, "begin_turn", begin()).json()["code"] == "PGRST202"


@pytest.mark.parametrize("body", [b"{", b'{"n": NaN}', b"\xff"])
def test_what_is_no_json_is_pgrst102(project: SupabaseStack, body: bytes) -> None:
    refused = post(project, "many", body)
    assert (refused.status_code, refused.json()["code"]) == (400, "PGRST102")


@pytest.mark.parametrize(
    ("state", "status"),
    [("P0001", 400), ("23505", 409), ("23503", 409), ("22P02", 400), ("54000", 500), ("55P03", 500), ("42P01", 404),
     ("53300", 503), ("40001", 500), ("57P01", 503), ("PT418", 418)],
)  # fmt: skip
def test_an_error_of_sql_keeps_its_four_parts_and_has_postgrests_status(
    project: SupabaseStack, state: str, status: int
) -> None:
    refused = post(project, "fails", {"state": state})
    body = {"code": state, "details": "why", "hint": "what now", "message": "as asked"}
    assert (refused.status_code, refused.json()) == (status, body)
    assert ("retry-after" in refused.headers) == (status == 503)


def test_bad_values_are_refused_by_the_functions_own_types(project: SupabaseStack) -> None:
    assert post(project, "begin_turn", begin(turn_id="no-uuid")).json()["code"] == "22P02"
    assert post(project, "begin_turn", begin(content="a\0b")).json()["code"] == "22P05"


def test_a_function_that_is_not_volatile_cannot_write(project: SupabaseStack) -> None:
    assert post(project, "writes").json() == 1
    refused = post(project, "writes_though_stable")
    assert (refused.status_code, refused.json()["code"]) == (405, "25006")


def test_each_role_has_its_statement_timeout(project: SupabaseStack) -> None:
    refused = post(project, "sleeps", {"seconds": 5})
    assert (refused.status_code, refused.json()["code"]) == (500, "57014")
    assert post(project, "sleeps", {"seconds": 0.2}).status_code == 204
    anonymous = post(project, "sleeps", {"seconds": 0.2}, apikey=project.publishable_key, Authorization="")
    assert anonymous.json()["code"] == "57014"


def test_a_lock_that_is_not_had_in_time_is_500_with_55p03(project: SupabaseStack) -> None:
    post(project, "begin_turn", begin())
    with psycopg.connect(project.db_url) as other:
        other.execute("select from public.chat_sessions for update")
        project.execute("alter function public.begin_turn set lock_timeout = '50ms'")
        refused = post(project, "begin_turn", begin())
    project.execute("alter function public.begin_turn set lock_timeout = '1500ms'")
    assert (refused.status_code, refused.json()["code"]) == (500, "55P03")


def test_a_full_pool_is_504(project: SupabaseStack) -> None:
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    with psycopg.connect(project.db_url) as other, ThreadPoolExecutor(4) as threads:
        other.execute("select pg_advisory_xact_lock(1)")
        held = [threads.submit(post, project, "waits") for _ in range(4)]
        wait_until(lambda: project.execute(waiting) == [(4,)], "the four do not wait")
        refused = post(project, "who")
        other.rollback()
        assert {future.result().status_code for future in held} == {204}
    assert (refused.status_code, refused.json()["code"]) == (504, "PGRST003")


def test_serialization_failures_are_tried_again_for_ever_where_that_is_asked_for(cluster: PostgresCluster) -> None:
    third_time = (
        "create sequence public.tries; grant usage on public.tries to service_role;"
        "create function public.third_time() returns bigint language plpgsql as $$ begin"
        "  if nextval('public.tries') < 3 then raise exception 'again' using errcode = '40001'; end if;"
        "  return currval('public.tries'); end $$"
    )
    for stubborn, answer in ((False, 500), (True, 200)):
        options = GatewayOptions(retries_for_ever=stubborn)
        with SupabaseStack(cluster, migrated=False, options=options) as project:
            project.execute(third_time)
            project.restart()
            assert post(project, "third_time").status_code == answer


def test_sixty_four_at_once_are_all_stored_and_all_counted(project: SupabaseStack) -> None:
    before = len(project.requests)
    turns = [begin(f"user-{n % 8}") for n in range(64)]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda turn: post(project, "begin_turn", turn).json()["turn_id"], turns))
    assert answers == [turn["turn_id"] for turn in turns]
    assert project.execute("select count(*) from public.chat_messages") == [(64,)]
    seen = project.requests[before:]
    assert {(line.method, line.path, line.status) for line in seen} == {("POST", "/rest/v1/rpc/begin_turn", 200)}
    assert len(seen) == 64


def test_a_body_over_the_limit_is_413_in_html(cluster: PostgresCluster) -> None:
    with SupabaseStack(cluster, options=GatewayOptions(rest_body_limit=1000)) as project:
        refused = post(project, "begin_turn", begin(content="x" * 1000))
    assert (refused.status_code, refused.headers["content-type"]) == (413, "text/html")


def test_the_root_answers_and_other_paths_and_schemas_do_not(project: SupabaseStack) -> None:
    key = {"apikey": project.service_key}
    assert httpx.get(f"{project.url}/rest/v1/", headers=key).status_code == 200
    assert httpx.get(f"{project.url}/rest/v1/a/b", headers=key).json()["code"] == "PGRST125"
    assert post(project, "who", **{"Content-Profile": "private"}).json()["code"] == "PGRST106"
    assert httpx.get(f"{project.url}/elsewhere").status_code == 404


def test_a_database_that_is_away_is_503_and_comes_back(project: SupabaseStack, cluster: PostgresCluster) -> None:
    assert post(project, "who").status_code == 200
    cluster.kill()
    replies = [post(project, "who") for _ in range(QUICK.rest_pool + 1)]  # each pooled connection is lost once
    project.restart()
    replies.append(post(project, "who"))
    cluster.start()
    codes = [reply.json()["code"] for reply in replies]
    assert (codes[0], codes[-2], codes[-1]) == ("PGRST001", "PGRST000", "PGRST002")
    assert {reply.status_code for reply in replies} == {503}
    wait_until(lambda: post(project, "who").status_code == 200, "it stays away")
