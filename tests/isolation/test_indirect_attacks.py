"""Attacks that no reply gives away at once: on what a server does later, on the planner, on a database's own openness.

Each succeeded once. What remains to be learnt of others stands at the end.
"""

import itertools
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from isolation.conftest import Settled
from isolation.supabase_like import Api, Reply, SupabaseLike
from isolation.tenants import HISTORY
from isolation.test_canary import rewrite
from isolation.test_sql_attacks import DENIED, file, message

from perdure.errors import PerdureError
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import StoredFile, Turn
from perdure.testing.turns import a_turn, answered

FILE_COLUMNS = ("name", "bucket", "key", "sha256", "size", "media_type")


@pytest.fixture
def store(settled: Settled) -> Iterator[PostgresStore]:
    store = PostgresStore(settled.project.url(settled.database))
    yield store
    store.close()


@pytest.fixture
def mallory(api: Api) -> str:
    """The id of a new session of his."""
    return a_session(api, "mallory")


def a_session(api: Api, subject: str, continuation_id: str = "") -> str:
    ((identity,),) = api.as_user(
        subject,
        "insert into public.chat_sessions (continuation_id, user_id) values (%s, %s) returning id",
        [continuation_id or str(uuid.uuid4()), subject],
    ).rows
    return str(identity)


def begun(store: PostgresStore, **changes: Any) -> Turn:
    turn = a_turn("a question", continuation_id=str(uuid.uuid4()), principal="alice", **changes)
    store.begin(turn, HISTORY)
    return turn


# ── harm that is done through the server ─────────────────────────────────────────────────────────────────────────────


def test_whoever_learns_of_a_running_turn_cannot_keep_its_answer_from_being_kept(
    api: Api, store: PostgresStore
) -> None:
    """He has written under the ids that come near to the turn's, by himself and through the server."""
    turn = begun(store)
    for bit in range(12):
        near = str(uuid.UUID(int=uuid.UUID(turn.id).int ^ 1 << bit))
        if bit % 2 == 0:
            assert api.as_user("mallory", message(a_session(api, "mallory"), user="mallory", id=near)).error is None
        else:
            store.begin(a_turn("squat", continuation_id="mine", principal="mallory", id=near), HISTORY)
    assert store.finish(answered(turn, "the answer")).place == 1


def test_the_id_of_an_answer_follows_neither_from_its_turn_s_nor_from_its_time(
    store: PostgresStore, settled: Settled
) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    differences = set()
    for _ in range(5):
        turn = begun(store)
        ended = replace(answered(turn, "the answer"), ended_at=moment)
        assert store.finish(ended).place == store.finish(ended).place == 1
        ((kept,),) = settled.project.superuser(
            settled.database, f"select id::text from public.chat_messages where turn_id = '{turn.id}' and part = 1"
        )
        differences.add((uuid.UUID(kept).int ^ uuid.UUID(turn.id).int) % (1 << 62))
    assert len(differences) == 5
    assert min(differences) > 1 << 32


def test_nobody_slips_a_file_into_another_s_result(
    api: Api, store: PostgresStore, settled: Settled, mallory: str
) -> None:
    (given,) = settled.alice.known_turns[0].files
    turn = begun(store, files=(given,))
    assert api.as_user("mallory", file(mallory, user="mallory", turn=turn.id)).error is None
    assert [kept.name for kept in store.finish(answered(turn)).files] == [given.name]


DELETIONS = ("purge_expired()", "delete_conversation('purged', 'c')")


@pytest.mark.parametrize("deletion", DELETIONS)
@pytest.mark.parametrize("way", ["finish_turn", "insert"])
def test_nobody_is_told_to_delete_a_file_that_another_tenant_has(
    way: str, deletion: str, api: Api, settled: Settled
) -> None:
    theirs = settled.alice.known_files[0]
    assert theirs.key not in told_to_delete(api, theirs, way, deletion)


WALLS = {
    "a user names keys of his own alone": (
        "",
        "alter policy own on public.chat_files with check (user_id = public.chat_subject())",
    ),
    "only keys of the tenant's own are told": ("split_part(x.key, '/', 1) = public.chat_tenant(x.user_id)", "true"),
    "no key is told that somebody still names": ("o.bucket = x.bucket", "o.user_id = x.user_id"),
}


@pytest.mark.parametrize("standing", [*WALLS, None])
def test_each_wall_before_another_s_files_is_enough(standing: str | None, settled_anew: Settled) -> None:
    theirs = settled_anew.alice.known_files[0]
    for name, (wall, hole) in WALLS.items():
        if name == standing:
            continue
        if hole.startswith("alter"):
            settled_anew.project.owner(settled_anew.database, hole)
        else:
            rewrite(settled_anew, "chat_remove", wall, hole)
    with settled_anew.project.api(settled_anew.database) as api:
        for deletion in DELETIONS:
            assert (theirs.key in told_to_delete(api, theirs, "insert", deletion)) is (standing is None)


def told_to_delete(api: Api, theirs: StoredFile, way: str, deletion: str) -> list[str]:
    """The keys of files whose bytes the server should delete, after a user has named `theirs` his own."""
    session = a_session(api, "purged", "c")
    if way == "insert":
        api.as_user("purged", file(session, user="purged", key=theirs.key))
    else:
        api.as_user(
            "purged",
            "select public.finish_turn(gen_random_uuid(), gen_random_uuid(), null, 'd', 'answered', 'a', null, 1, "
            "now(), %s, 'c', 't', 'c', null, now(), now())",
            [json.dumps([{name: getattr(theirs, name) for name in FILE_COLUMNS}])],
        )
    assert api.as_user("purged", file(session, user="purged")).error is None
    api.as_user("purged", "update public.chat_sessions set expires_at = now() - interval '1 day'")
    ((told,),) = api.request(f"select public.{deletion}", role="service_role").rows
    assert told.get("conversations") or told.get("deleted"), "it deleted nothing"
    keys = [gone["key"] for gone in told["files"]]
    assert any(key.startswith("purged/") for key in keys), "it tells of no file at all"
    return keys


@pytest.mark.parametrize("moment", ["infinity", "20000-01-01Z", "0044-03-15Z BC"])
@pytest.mark.parametrize("way", ["begin_turn", "insert", "update"])
def test_one_user_cannot_break_the_operator_s_list(way: str, moment: str, api: Api, store: PostgresStore) -> None:
    subject = f"spoiler-{uuid.uuid4()}"
    match way:
        case "begin_turn":
            api.as_user(
                subject,
                "select public.begin_turn(gen_random_uuid(), null, 'spoilt', 't', 'd', 'c', null, now(), now(), "
                "at => %s)",
                [moment],
            )
        case "insert":
            api.as_user(
                subject,
                "insert into public.chat_sessions (continuation_id, user_id, created_at) values ('spoilt', %s, %s)",
                [subject, moment],
            )
        case "update":
            a_session(api, subject)
            api.as_user(subject, "update public.chat_sessions set updated_at = %s", [moment])
    try:
        assert len(store.conversations(limit=1000)) > 6
    finally:
        api.request(f"delete from public.chat_sessions where user_id = '{subject}'", role="service_role")


# ── who is who ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("principal", ["client:robot", "subject:client:robot"])
def test_no_subject_passes_for_a_client_or_for_another_subject(principal: str, api: Api, store: PostgresStore) -> None:
    """`subject:client:robot` is the principal of the subject `client:robot`, and of no other."""
    store.begin(a_turn(f"said by {principal}", continuation_id="robots", principal=principal), HISTORY)
    for statement in ("select content from public.chat_messages", "select public.read_turns(null, 'robots')"):
        assert f"said by {principal}" not in api.as_user(principal, statement).text


# ── what the planner tells ───────────────────────────────────────────────────────────────────────────────────────────


SAID = "launch on friday"


@pytest.fixture(scope="module")
def crowded(settled_template: Settled) -> Iterator[Api]:
    """A database in which alice has said much, some of it often, and the planner has looked at it."""
    project = settled_template.project
    database = project.copy_of(settled_template.database)
    session = settled_template.alice.known_sessions[0]
    project.superuser(
        database,
        "insert into public.chat_messages (id, session_id, turn_id, turn_seq, part, role, content, body, user_id, "
        f"tool, digest) select id, '{session}', id, n, 0, 'user', "
        f"case n % 3 when 0 then 'yes please' when 1 then '{SAID} ' || md5(n::text) else md5(n::text) end, "
        "case n % 3 when 0 then '{\"value\":1}' else md5(n::text) end, 'alice', 'chat', 'd' "
        "from (select n, gen_random_uuid() as id from generate_series(1000, 5000) n) made",
    )
    project.superuser(
        database,
        "insert into public.chat_files (session_id, turn_id, version, size, user_id, name, bucket, key, sha256, "
        f"media_type) select '{session}', gen_random_uuid(), 1, 1, 'alice', n || '.txt', 'b', "
        "case when n % 3 = 0 then 'yes' else n::text end, repeat('0', 64), 'x/y' from generate_series(1000, 5000) n",
    )
    project.superuser(database, "analyze")
    with project.api(database) as api:
        yield api
    project.cluster.drop_database(database)


def planned(crowded: Api, table: str, where: str) -> int:
    """As PostgREST answers to `Prefer: count=planned`: any user may ask, with any filter."""
    reply: Reply = crowded.as_user("mallory", f"explain (format json) select 1 from public.{table} where {where}")
    assert reply.error is None, reply.text
    rows: int = reply.rows[0][0][0]["Plan"]["Plan Rows"]
    return rows


@pytest.mark.parametrize(
    ("table", "often", "never"),
    [
        ("chat_messages", "content = 'yes please'", "content = 'no thanks'"),
        ("chat_messages", "content < 'z'", "content < '!'"),
        ("chat_words", "words @@ 'friday'", "words @@ 'monday'"),
        ("chat_words", "words @@ 'l:*'", "words @@ 'x:*'"),
        ("chat_messages", "body = '{\"value\":1}'", "body = '{\"value\":2}'"),
        ("chat_files", "key = 'yes'", "key = 'no'"),
        ("chat_files", "name < '3000.txt'", "name < '1000.txt'"),
        ("chat_messages", "id < '80000000-0000-0000-0000-000000000000'", "id < '00000000-0000-0000-0000-000000000001'"),
        (
            "chat_messages",
            "turn_id < '80000000-0000-0000-0000-000000000000'",
            "turn_id < '00000000-0000-0000-0000-000000000001'",
        ),
    ],
)
def test_the_planner_s_estimates_tell_nothing_of_what_others_have(
    table: str, often: str, never: str, crowded: Api
) -> None:
    assert planned(crowded, table, often) == planned(crowded, table, never)


def test_of_text_and_ids_the_planner_keeps_only_what_is_nobody_s_secret(settled: Settled) -> None:
    """Whoever adds a column decides whether its values may be guessed by their estimates."""
    kept = settled.project.superuser(
        settled.database,
        "select distinct attname::text from pg_attribute where attnum > 0 and not attisdropped "
        "and attrelid = any ('{public.chat_sessions, public.chat_messages, public.chat_files, public.chat_words, "
        "public.chat_words_due}'::regclass[]) "
        "and atttypid = any ('{text, uuid, jsonb, json, bytea, tsvector}'::regtype[]) "
        "and attstattarget is distinct from 0 order by 1",
    )
    assert [name for (name,) in kept] == ["bucket", "media_type", "outcome", "role", "session_id", "tool", "user_id"]


def test_nobody_s_text_is_read_by_asking_the_planner(crowded: Api) -> None:
    signs = " abcdefghijklmnopqrstuvwxyz{"
    read = "l"
    while len(read) < len(SAID):
        below = [planned(crowded, "chat_messages", f"content < '{read}{sign}'") for sign in signs]
        between = [after - before for before, after in itertools.pairwise(below)]
        read += signs[between.index(max(between))]
    assert read != SAID


# ── the service key's functions, and sessions that several roles share ───────────────────────────────────────────────


def test_turns_are_read_with_the_service_key_only_of_a_named_principal(api: Api, settled: Settled) -> None:
    theirs = settled.alice.known_sessions[0]
    reply = _as_mallory(api, settled, "chat_turns", {"session": theirs, "places": "{1,2,3}"})
    assert settled.alice.seen_in(reply.text) is None


def test_a_file_is_kept_with_the_service_key_only_in_a_session_of_its_principal(api: Api, settled: Settled) -> None:
    theirs, turn = settled.alice.known_sessions[0], str(uuid.uuid4())
    line = {"name": "x", "bucket": "b", "key": "mallory/k/x", "sha256": "e" * 64, "size": 1, "media_type": "x/y"}
    kept = {"session": theirs, "turn": turn, "kept_at": "now", "file": json.dumps(line)}
    _as_mallory(api, settled, "chat_keep_file", kept)
    rows = api.request(f"select * from public.chat_files where turn_id = '{turn}'", role="service_role").rows
    assert rows == []


def _as_mallory(api: Api, settled: Settled, function: str, given: dict[str, str]) -> Reply:
    """A call with the service key that names mallory, where the function lets anybody be named."""
    ((names,),) = settled.project.superuser(
        settled.database, f"select proargnames from pg_proc where oid = 'public.{function}'::regproc"
    )
    given |= {"principal": "mallory"} if "principal" in names else {}
    arguments = ", ".join(f"{name} => %s" for name in given)
    return api.request(f"select public.{function}({arguments})", list(given.values()), role="service_role")


def test_a_type_of_ones_own_runs_nothing_in_the_next_caller_s_name(settled: Settled) -> None:
    """Whoever can make a type over PostgREST's connection can change its role, too; a pooler's is another matter."""
    with settled.project.api(settled.database) as api:
        api.as_user(
            "mallory",
            "create temp table loot (x text); grant all on loot to public; "
            "create function pg_temp.grab(pg_catalog.tsquery) returns boolean language plpgsql as $x$ begin "
            "insert into pg_temp.loot select content from public.chat_messages; return true; end $x$; "
            "create domain pg_temp.tsquery as pg_catalog.tsquery check (pg_temp.grab(value))",
        )
        assert api.request("select public.search_messages('zoe', 'hello')", role="service_role").error is None
        loot = api.as_user("mallory", "select * from pg_temp.loot")
    assert settled.alice.seen_in(loot.text) is None


def test_a_conflict_shows_no_conversation(api: Api, settled: Settled) -> None:
    subject = f"loser-{uuid.uuid4()}"
    conflict = api.as_user(
        subject,
        f"select public.begin_turn('{settled.alice.known_turn_ids[0]}', null, 'c', 't', 'd', 'c', null, now(), now())",
    )
    assert conflict.rows == [({"status": "conflict"},)]
    assert api.as_user(subject, "select public.list_conversations()").rows == [({"conversations": []},)]


# ── a database that lets everybody make things ───────────────────────────────────────────────────────────────────────


PLANTED = "public.read_turns_in_line(user_id text, continuation_id text, after_place text, max_turns text, at text)"


def test_nobody_puts_a_function_in_the_place_of_one_of_ours(supabase: SupabaseLike) -> None:
    database = supabase.new_bare_project()
    supabase.superuser(database, "grant create on schema public to public")  # as it is up to Postgres 14
    migrations.apply(supabase.url(database), database, lambda _: None)
    with supabase.api(database, "stranger") as api:
        planted = api.as_user(
            "mallory",
            f"create function {PLANTED} returns json language sql as $x$ select json_build_array(current_user) $x$",
        )
    assert planted.state == DENIED


def test_that_function_would_be_called_by_the_server(supabase: SupabaseLike) -> None:
    """Why it matters: arguments travel without a type, and a function that takes all as text is the better match."""
    database = supabase.new_bare_project()
    migrations.apply(supabase.url(database), database, lambda _: None)
    supabase.superuser(
        database,
        f"create function {PLANTED} returns json language plpgsql as "
        "$x$ begin raise exception 'planted, as %', current_user; end $x$",
    )
    store = PostgresStore(supabase.url(database))
    with pytest.raises(PerdureError, match="planted, as project_owner"):
        store.turns("alice", "c")
    store.close()


# ── oracles that stay ────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_id_that_is_taken_is_told_from_one_that_is_free_and_nothing_more(api: Api, settled: Settled) -> None:
    """Ids of turns and sessions are primary keys: whoever knows one learns that it exists. They are 74 random bits."""
    own, alice = settled.tenants["mallory"].known_sessions[0], settled.alice
    taken, session = alice.known_turn_ids[0], alice.known_sessions[0]
    for statement in (
        message(own, user="mallory", id=taken),
        f"insert into public.chat_sessions (id, continuation_id, user_id) values ('{session}', 'q', 'mallory')",
    ):
        reply = api.as_user("mallory", statement)
        assert reply.state == "23505"
        assert reply.error is not None
        assert reply.error.diag.message_detail is None
        assert alice.seen_in(reply.text) is None
    begin = "select public.begin_turn(%s, null, 'oracle', 't', 'd', 'c', null, now(), now())"
    assert api.as_user("mallory", begin, [taken]).rows == [({"status": "conflict"},)]
    assert api.as_user("mallory", begin, [str(uuid.uuid4())]).rows[0][0]["status"] == "new"
    finish = "select public.finish_turn(%s, gen_random_uuid(), null, 'd', 'answered', 'a', null, 1, now())"
    for turn in (taken, str(uuid.uuid4())):
        assert api.as_user("mallory", finish, [turn]).rows == [({"status": "unknown", "turn_id": turn},)]


def test_a_continuation_id_of_another_s_is_told_from_no_free_one(api: Api, settled: Settled) -> None:
    known, unknown = settled.alice.known_ids[1], "nobody-has-this"
    subject = f"prober-{uuid.uuid4()}"
    for call, what in (
        ("read_turns", "turns"),
        ("list_conversations", "conversations"),
        ("list_conversations_with_ends", "conversations"),
        ("list_files", "files"),
    ):
        for wanted in (known, unknown):
            assert api.as_user(subject, f"select public.{call}(null, %s)", [wanted]).rows == [({what: []},)]
    replies = [
        api.as_user(
            subject,
            "select r ->> 'status', r ->> 'place', r ->> 'history' "
            "from public.begin_turn(gen_random_uuid(), null, %s, 't', 'd', 'c', null, now(), now()) r",
            [wanted],
        ).rows
        for wanted in (known, unknown)
    ]
    assert replies[0] == replies[1] == [("new", "1", "[]")]


def test_how_many_rows_all_have_together_is_no_secret_to_whoever_speaks_sql(api: Api, settled: Settled) -> None:
    reply = api.as_user("mallory", "select reltuples from pg_class where oid = 'public.chat_messages'::regclass")
    assert reply.rows[0][0] > 100


def test_the_planner_tells_whether_a_named_user_or_session_has_many_rows(crowded: Api, settled: Settled) -> None:
    """The statistics of `user_id` stay: without them a search takes a hundred times as long."""
    session = settled.alice.known_sessions[0]
    for there, not_there in (
        ("user_id = 'alice'", "user_id = 'nobody'"),
        (f"session_id = '{session}'", f"session_id = '{uuid.uuid4()}'"),
    ):
        assert planned(crowded, "chat_messages", there) > planned(crowded, "chat_messages", not_there)
