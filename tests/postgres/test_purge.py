"""Purging removes what has expired with all that belongs to it, a batch at a time, and nothing that is in use."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from postgres.databases import Database, Functions
from servers.unprivileged import wait_until

from perdure.middleware.persistence.stores.sql_arguments import beginning_of
from perdure.middleware.persistence.turn import BegunTurn, Json, StoredFile, Turn, Window
from perdure.testing.turns import answered

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
A_FILE = StoredFile(key="alice/k", bucket="mcp-files", name="n", sha256="0" * 64, size=1, media_type="text/plain")


@pytest.fixture
def server(project: Database) -> Iterator[Functions]:
    """The functions with the service key, in a database that nothing has expired in."""
    project.execute("delete from chat_sessions where true")
    functions = Functions(project, "service_role", "alice")
    yield functions
    functions.close()


def test_messages_and_files_go_with_their_conversation_and_the_living_stay(
    server: Functions, project: Database
) -> None:
    for name, expires_at in (("gone", NOON), ("later", NOON + timedelta(seconds=1)), ("never", None)):
        _keep(server, name, expires_at, replace(A_FILE, key=f"alice/{name}"))
    assert _purge(server) == {"conversations": 1, "files": [{"bucket": "mcp-files", "key": "alice/gone"}]}
    for table in ("chat_sessions", "chat_messages", "chat_files"):
        assert project.one(f"select count(*) from {table}") == {"chat_messages": 4}.get(table, 2)
    assert _names(project) == ["later", "never"]
    assert _purge(server) == {"conversations": 0, "files": []}


def test_a_batch_takes_those_that_expired_first(server: Functions, project: Database) -> None:
    for minutes in (3, 5, 1, 4, 2):
        _keep(server, f"c{minutes}", NOON - timedelta(minutes=minutes))
    assert _purge(server, max_conversations=2)["conversations"] == 2
    assert _names(project) == ["c1", "c2", "c3"]
    assert [_purge(server, max_conversations=2)["conversations"] for _ in range(3)] == [2, 1, 0]


def test_what_made_way_for_a_new_conversation_of_its_name_goes_too(server: Functions, project: Database) -> None:
    _keep(server, "c", NOON)
    server.store.begin(server.turn("anew"), Window(1, 1))
    assert project.one("select count(*) from chat_sessions") == 2
    assert _purge(server)["conversations"] == 1
    assert [turn.prompt for turn in server.store.turns("alice", "c")] == ["anew"]


def test_only_files_that_no_turn_names_any_more_are_given_back(server: Functions) -> None:
    shared, own, moved = (replace(A_FILE, key=f"alice/{key}", name=key) for key in ("shared", "own", "moved"))
    _keep(server, "gone", NOON, shared, own, moved)
    _keep(server, "gone, too", NOON, own)
    _keep(server, "lives", None, shared, replace(moved, bucket="another"))
    assert _purge(server)["files"] == [
        {"bucket": "mcp-files", "key": "alice/moved"},
        {"bucket": "mcp-files", "key": "alice/own"},
    ]
    assert [(file.bucket, file.key) for file in server.store.files("alice")] == [
        ("another", "alice/moved"),
        ("mcp-files", "alice/shared"),
    ]


def test_a_file_that_another_users_turn_names_or_whose_key_is_not_the_users_own_is_not_given_back(
    server: Functions, project: Database
) -> None:
    _keep(server, "gone", NOON, replace(A_FILE, key="alice/shared", name="a"), replace(A_FILE, key="bob/k", name="b"))
    bob = Functions(project, "service_role", "bob")
    _keep(bob, "lives", None, replace(A_FILE, key="alice/shared"))
    bob.close()
    assert _purge(server) == {"conversations": 1, "files": []}


def test_a_conversation_can_be_deleted_before_its_time(server: Functions, project: Database) -> None:
    own, shared = (replace(A_FILE, key=f"alice/{key}", name=key) for key in ("own", "shared"))
    _keep(server, "gone", None, own, shared)
    _keep(server, "lives", None, shared)
    answer = server("delete_conversation", continuation_id="gone")
    assert answer == {"deleted": True, "files": [{"bucket": "mcp-files", "key": "alice/own"}]}
    assert server("delete_conversation", continuation_id="gone") == {"deleted": False, "files": []}
    assert server("delete_conversation", user_id="bob", continuation_id="lives")["deleted"] is False
    assert _names(project) == ["lives"]


def test_what_a_batch_leaves_keeps_its_files(server: Functions) -> None:
    _keep(server, "first", NOON - timedelta(minutes=1), A_FILE)
    _keep(server, "second", NOON, A_FILE)
    assert _purge(server, max_conversations=1)["files"] == []
    assert _purge(server, max_conversations=1)["files"] == [{"bucket": "mcp-files", "key": "alice/k"}]


@pytest.mark.parametrize(
    "work",
    [
        "select * from chat_sessions where continuation_id = 'held' for no key update",
        """select finish_turn(
             turn_id => %(turn)s, answer_id => gen_random_uuid(), user_id => 'alice', digest => %(digest)s,
             outcome => 'answered', answer => '', answer_body => null, tokens => 0, ended_at => now())""",
    ],
    ids=["a beginning", "an ending"],
)
def test_a_conversation_that_somebody_works_on_is_left_for_the_next_time(
    server: Functions, project: Database, work: str
) -> None:
    _keep(server, "free", NOON)
    running = _keep(server, "held", NOON - timedelta(minutes=1), finish=False)
    with project.connect() as other, other.transaction():
        other.execute(work.encode(), {"turn": running.id, "digest": running.digest} if "%" in work else None)
        assert _purge(server)["conversations"] == 1
        assert _names(project) == ["held"]
    assert _purge(server)["conversations"] == 1


def test_a_turn_that_begins_while_its_conversation_is_purged_begins_a_new_one(
    server: Functions, project: Database
) -> None:
    _keep(server, "c", NOON + timedelta(days=30))
    begun: list[BegunTurn] = []
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    other = Functions(project, "service_role", "alice")
    thread = threading.Thread(target=lambda: begun.append(other.store.begin(other.turn("next"), Window(9, 999))))
    with project.connect() as purging, project.connect() as watcher:
        with purging.transaction():
            purging.execute("select purge_expired(at => '2099-01-01')")
            thread.start()
            wait_until(lambda: watcher.execute(waiting).fetchone() == (1,), "the beginning does not wait", seconds=5)
        thread.join(30)
    other.close()
    assert begun == [BegunTurn(continuation_id="c", place=1)]
    assert [turn.prompt for turn in server.store.turns("alice", "c")] == ["next"]


def test_a_turn_that_ends_after_its_conversation_was_purged_is_kept_whole_in_a_new_one(server: Functions) -> None:
    running = _keep(server, "c", NOON, finish=False)
    _purge(server)
    finished = server.store.finish(answered(replace(running, place=1), "at last"))
    assert (finished.continuation_id, finished.place) == ("c", 1)
    (turn,) = server.store.turns("alice", "c")
    assert (turn.prompt, turn.answer and turn.answer.text) == ("of c", "at last")


def test_a_users_token_cannot_purge_not_even_where_somebody_granted_it(server: Functions, project: Database) -> None:
    _keep(server, "c", NOON)
    user = Functions(project, "authenticated", "alice")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for function purge_expired"):
        _purge(user)
    with project.connect() as owner, owner.transaction(force_rollback=True):
        owner.execute("grant execute on function purge_expired to authenticated")
        owner.execute("""select set_config('request.jwt.claims', '{"sub": "alice"}', true)""")
        owner.execute("set local role authenticated")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Only a server may purge"):
            owner.execute("select purge_expired()")
    user.close()


def _keep(
    functions: Functions, name: str, expires_at: datetime | None, *files: StoredFile, finish: bool = True
) -> Turn:
    turn = functions.turn(f"of {name}", name, files=files)
    expiry = {"expires_at": expires_at.isoformat()} if expires_at else {}
    arguments = beginning_of(turn, turn.started_at).given | {"at": (NOON - timedelta(hours=1)).isoformat()} | expiry
    assert functions.call("begin_turn", arguments)["status"] == "new"
    if finish:
        functions.store.finish(answered(turn))
    return turn


def _purge(functions: Functions, **arguments: Json) -> Json:
    answer = functions.call("purge_expired", {"at": NOON.isoformat(), **arguments})
    return answer | {"files": sorted(answer["files"], key=lambda file: file["key"])}


def _names(project: Database) -> list[str]:
    return [name for (name,) in project.execute("select continuation_id from chat_sessions order by 1")]
