"""Promise 6, Flat, on Postgres: in a database of 1,000,000 messages no call of a store reads a table through.

Scans and blocks are counted by the server itself, never seconds. The caller is the database's owner, whom row security
binds; the connection is the store's own, so its plans are those of a server that has been running for a while.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from servers.postgres_cluster import PostgresCluster

from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Json, StoredFile, Turn, Window
from perdure.testing.turns import a_turn, answered

TURNS, CONVERSATIONS, LONG, SHORT, FILES = 500_000, 20_000, 100_000, 20, 100_000
WINDOW = Window(20, 8_000)
TABLES = ("chat_sessions", "chat_messages", "chat_files", "chat_words")

# Conversation 1 is the long one, all others have 20 turns. Every fifth belongs to alice, who has the long one, too; the
# others have 100 owners. A word stands in one of 5,000 messages; every fifth turn of a conversation has a file.
FILL = f"""
set session_replication_role = replica;  -- no look-up for each foreign key
insert into chat_sessions (id, continuation_id, user_id, minted, last_place, created_at, updated_at, expires_at)
  select md5('s' || n)::uuid, 'c' || n, case when n % 5 = 1 then 'alice' else 'user ' || n % 100 end, true,
         case n when 1 then {LONG} else {SHORT} end, timestamptz '2026-01-01',
         timestamptz '2026-01-01' + n * interval '1 second', case when n > 19000 then timestamptz '2026-02-01' end
    from generate_series(1, {CONVERSATIONS}) n;
insert into chat_messages (id, session_id, turn_id, turn_seq, part, tokens, role, content, created_at, user_id, tool,
                           digest, outcome)
  select case part when 0 then t.id else uuidv7() end, t.session, t.id, t.place, part, part * 10,
         case part when 0 then 'user' else 'assistant' end, 'w' || t.n % 5000 || ' of ' || t.place,
         timestamptz '2026-01-01' + t.n * interval '1 second', t.owner,
         case part when 0 then 'chat' end, case part when 0 then 'd' end, case part when 1 then 'answered' end
    from (select uuidv7() as id, s.id as session, s.user_id as owner, place, row_number() over () as n
            from chat_sessions s cross join lateral generate_series(1, s.last_place) place) t,
         generate_series(0, 1) part;
insert into chat_words (message_id, turn_id, created_at, part, user_id, words)
  select id, turn_id, created_at, part, user_id, to_tsvector('simple', content) from chat_messages;
insert into chat_files (session_id, turn_id, version, size, user_id, name, bucket, key, sha256, media_type, created_at)
  select m.session_id, m.id, m.turn_seq, 1, m.user_id, 'report.txt', 'mcp-files', m.user_id || '/' || m.id,
         repeat('0', 64), 'text/plain', m.created_at
    from chat_messages m where m.part = 0 and m.turn_seq % 5 = 0;
"""


@dataclass(frozen=True)
class Work:
    """What the server did on perdure's tables."""

    scans: dict[str, int]
    """Tables that were read through, and how often."""
    blocks: int
    """Of 8 KiB, of tables and indexes; from memory or not."""


class Metered:
    """The functions of a store over one connection, and what they cost the server."""

    def __init__(self, url: str) -> None:
        self.functions = PostgresFunctions(url, timeout=60, max_connections=1)
        self.store = SqlFunctionStore(self.functions)

    def work_of(self, work: Callable[[], object]) -> Work:
        before = self._counted()
        work()
        after = self._counted()
        return Work(
            {table: after[table][0] - before[table][0] for table in TABLES if after[table][0] != before[table][0]},
            sum(after[table][1] - before[table][1] for table in TABLES),
        )

    def _counted(self) -> dict[str, tuple[int, int]]:
        with self.functions._connections.one(time.monotonic() + 60) as connection:
            connection.execute("select pg_stat_force_next_flush()")
            rows = connection.execute(
                "select relname, seq_scan, heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)"
                " + coalesce(toast_blks_hit + toast_blks_read + tidx_blks_hit + tidx_blks_read, 0)"
                " from pg_stat_user_tables join pg_statio_user_tables using (relid, relname)",
                prepare=False,
            )
            return {name: (int(scans), int(blocks)) for name, scans, blocks in rows}


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    # Nothing here has to outlive anything. Without autovacuum, what is counted is the work of the calls alone.
    quick = {"autovacuum": False, "wal_level": "minimal", "max_wal_senders": 0, "max_wal_size": "8GB"}
    memory = {"shared_buffers": "512MB", "maintenance_work_mem": "256MB", "full_page_writes": False}
    with PostgresCluster(fsync=False, settings=quick | memory | {"synchronous_commit": False}) as cluster:
        cluster.execute("create role keeper login password 'secret'")
        yield cluster


@pytest.fixture(scope="module")
def library(cluster: PostgresCluster) -> str:
    """The database of 1,000,000 messages, as its owner comes to it."""
    url = new_database(cluster, "library")
    indexes = [
        definition
        for (definition,) in cluster.execute(
            "select indexdef from pg_indexes where tablename like 'chat%' and indexdef not like '%UNIQUE%'",
            database="library",
        )
    ]
    for definition in indexes:  # filled as a whole afterwards, which takes a third of the time
        cluster.execute(f"drop index {definition.split()[2]}", database="library")
    cluster.execute(FILL + ";".join(indexes) + "; analyze", database="library")
    cluster.execute("vacuum", database="library")
    [counted] = cluster.execute(
        "select (select count(*) from chat_messages), (select count(*) from chat_files),"
        " (select count(*) from chat_sessions)",
        database="library",
    )
    assert counted == (2 * ((CONVERSATIONS - 1) * SHORT + LONG), counted[1], CONVERSATIONS)
    assert counted[0] >= 2 * TURNS - 100
    assert counted[1] >= FILES - 100
    return url


def new_database(cluster: PostgresCluster, name: str) -> str:
    cluster.create_database(name, owner="keeper")
    url = cluster.url(name, user="keeper", password="secret")
    migrations.apply(url, name, lambda _: None)
    return url


@pytest.fixture(params=["auto", "force_generic_plan", "force_custom_plan"])
def metered(library: str, request: pytest.FixtureRequest) -> Iterator[Metered]:
    """With the plans that Postgres would come to by itself, and with each kind it may come to."""
    made = Metered(f"{library}?options=-c%20plan_cache_mode%3D{request.param}")
    yield made
    made.store.close()


# ── what is called ───────────────────────────────────────────────────────────────────────────────────────────


def a_file(name: str) -> StoredFile:
    return StoredFile(
        key=f"alice/{'0' * 64}/{name}", bucket="mcp-files", name=name, sha256="0" * 64, size=1, media_type="text/plain"
    )


def begun(its: Metered, name: str) -> Turn:
    turn = a_turn("q", continuation_id=name)
    return replace(turn, place=its.store.begin(turn, WINDOW).place)


def last_page(its: Metered, name: str) -> Callable[[], object]:
    (line,) = its.store.conversations("alice", name)
    return partial(its.store.turns, "alice", name, after=line.turns - 20, limit=20)


def first_of(its: Metered, name: str) -> Turn:
    (turn,) = its.store.turns("alice", name, limit=1)
    return turn


def of_a_file(its: Metered, name: str) -> str:
    return its.store.files("alice", "c6", "report.txt", limit=1)[0].key


FILES_GIVEN = (a_file("report.txt"), a_file("new.txt"))

# Each prepares a call, which is then measured.
IN_A_CONVERSATION: dict[str, Callable[[Metered, str], Callable[[], object]]] = {
    "begin": lambda its, name: partial(begun, its, name),
    "begin where nothing is known": lambda its, name: (its.store._known.forget_all(), partial(begun, its, name))[1],
    "begin again": lambda its, name: partial(its.store.begin, first_of(its, name), WINDOW),
    "finish": lambda its, name: partial(its.store.finish, answered(begun(its, name), "a")),
    "finish again": lambda its, name: partial(its.store.finish, answered(first_of(its, name), "a")),
    "finish with files": lambda its, name: partial(
        its.store.finish, replace(answered(begun(its, name), "a"), files=FILES_GIVEN)
    ),
    "finish unbegun": lambda its, name: partial(its.store.finish, answered(a_turn("q", continuation_id=name), "a")),
    "first page": lambda its, name: partial(its.store.turns, "alice", name, limit=20),
    "last page": last_page,
    "line in the list": lambda its, name: partial(its.store.conversations, "alice", name),
    "a file by its key": lambda its, name: partial(its.store.file, "alice", of_a_file(its, name)),
}


def before(its: Metered, principal: str | None) -> Any:
    line = its.store.conversations(principal, limit=500)[-1]
    return line.updated_at, line.principal, line.continuation_id


def search(its: Metered, **asked: Json) -> Callable[[], object]:
    its.functions.call("keep_words", {"max_messages": 100_000})  # of the turns that other tests kept
    return partial(its.functions.call, "search_messages", {"user_id": "alice", **asked})


def purge(its: Metered, at: str) -> Callable[[], object]:
    return partial(its.functions.call, "purge_expired", {"max_conversations": 5, "at": at})


OF_AN_OPERATOR: dict[str, Callable[[Metered], Callable[[], object]]] = {
    "everybody's conversations": lambda its: its.store.conversations,
    "everybody's, further on": lambda its: partial(its.store.conversations, before=before(its, None)),
    "one's conversations": lambda its: partial(its.store.conversations, "alice"),
    "one's, further on": lambda its: partial(its.store.conversations, "alice", before=before(its, "alice")),
    "conversations of an id": lambda its: partial(its.store.conversations, None, "c1"),
    "all files": lambda its: partial(its.store.files, "alice", limit=100),
    "files of a name": lambda its: partial(its.store.files, "alice", None, "report.txt", limit=100),
    "files of a conversation": lambda its: partial(its.store.files, "alice", "c6", limit=100),
    "files of a long conversation": lambda its: partial(its.store.files, "alice", "c1", limit=100),
    "files of a name in one": lambda its: partial(its.store.files, "alice", "c6", "report.txt", limit=100),
    "search": lambda its: search(its, query="w7"),
    "search narrowly": lambda its: search(
        its, query="w7", tool="chat", outcome="answered", since="2026-01-02T00:00:00Z", until="2026-01-05T00:00:00Z"
    ),
    "search in vain": lambda its: search(its, query="w7 nobody-wrote-this"),
    "search in a conversation": lambda its: partial(
        its.functions.call, "find_messages", {"user_id": "alice", "words": "'of'", "continuation_id": "c11"}
    ),
    "purge": lambda its: purge(its, "2026-03-01T00:00:00Z"),
    "purge in vain": lambda its: purge(its, "2020-01-01T00:00:00Z"),
}

OFTEN = 8
"""Calls after which Postgres has chosen between plans for each call's values (at first) and one plan for all."""


@pytest.mark.parametrize("operation", IN_A_CONVERSATION)
def test_no_call_of_a_turn_reads_a_table_through_and_a_long_conversation_costs_no_more(
    metered: Metered, operation: str
) -> None:
    """Conversation "c1" has 100,000 turns, "c6" has 20."""
    blocks: dict[str, list[int]] = {"c6": [], "c1": []}
    for name in ("c6", "c1") * OFTEN:
        work = metered.work_of(IN_A_CONVERSATION[operation](metered, name))
        assert work.scans == {}
        blocks[name].append(work.blocks)
    short, long = (statistics.median(blocks[name][2:]) for name in ("c6", "c1"))
    assert short > 0
    assert long <= short * 1.3, f"{long} blocks, and {short} in the short one"


@pytest.mark.parametrize("operation", OF_AN_OPERATOR)
def test_no_call_of_an_operator_reads_a_table_through(metered: Metered, operation: str) -> None:
    """Of the files of one name, nine in ten are passed over, three blocks each: their conversations have expired.
    Five conversations that go have 200 messages, whose words are looked up one by one.
    """
    for _ in range(OFTEN):
        work = metered.work_of(OF_AN_OPERATOR[operation](metered))
        assert work.scans == {}
        most = {"files of a name": 4_000, "purge": 3_000}.get(operation, 1_000)
        assert 0 < work.blocks < most, "an index of the messages has 1,500 blocks and more"


def test_a_reply_is_no_larger_in_a_long_conversation(metered: Metered) -> None:
    replies: list[Json] = []

    class Heard:
        where = "here"
        timeout = 60.0

        def call(self, function: str, arguments: Mapping[str, Json], **how: Any) -> Json:
            replies.append(metered.functions.call(function, arguments, **how))
            return replies[-1]

        def close(self) -> None: ...

    sizes = {}
    for name in ("c6", "c1"):
        for _ in range(WINDOW.turns):
            metered.store.finish(answered(begun(metered, name), "a"))
        SqlFunctionStore(Heard()).begin(a_turn("q", continuation_id=name), WINDOW)
        sizes[name] = len(json.dumps(replies[-1]))
    assert sizes["c6"] > 5_000
    assert sizes["c1"] < sizes["c6"] * 1.1


def test_plans_that_were_made_for_empty_tables_serve_a_long_conversation_as_well(cluster: PostgresCluster) -> None:
    """As on a server's first day: statements have their plans, and nobody has counted the rows since."""
    its = Metered(new_database(cluster, "first_day"))
    names = ("begin", "begin where nothing is known", "finish", "first page", "last page")
    operations = {name: IN_A_CONVERSATION[name] for name in names}
    for operation in operations.values():
        its.store.finish(answered(a_turn("q", continuation_id="short")))
        for _ in range(OFTEN):
            operation(its, "short")()
    its.store.finish(answered(a_turn("q", continuation_id="long")))
    cluster.execute(
        "insert into chat_messages (id, session_id, turn_id, turn_seq, part, tokens, role, content, user_id, tool,"
        " digest, outcome) select gen_random_uuid(), id, gen_random_uuid(), place, part, 0,"
        " case part when 0 then 'user' else 'assistant' end, 'text', user_id, case part when 0 then 'chat' end,"
        " case part when 0 then 'd' end, case part when 1 then 'answered' end"
        " from chat_sessions, generate_series(2, 5000) place, generate_series(0, 1) part"
        " where continuation_id = 'long';"
        "update chat_sessions set last_place = 5000 where continuation_id = 'long'",
        database="first_day",
    )
    for conversation in ("short", "long") * WINDOW.turns:
        its.store.finish(answered(begun(its, conversation)))
    for name, operation in operations.items():
        short, long = (its.work_of(operation(its, conversation)) for conversation in ("short", "long"))
        assert short.scans == long.scans == {}, name
        assert long.blocks <= short.blocks * 1.3, f"{name}: {long.blocks} blocks, and {short.blocks} in the short one"
    its.store.close()


# ── the meter ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_meter_sees_a_table_read_through_where_an_index_is_missing(cluster: PostgresCluster, library: str) -> None:
    its = Metered(library)
    [(definition,)] = cluster.execute(
        "select indexdef from pg_indexes where indexname = 'chat_sessions_newest'", database="library"
    )
    before = its.work_of(OF_AN_OPERATOR["everybody's conversations"](its))
    cluster.execute("drop index chat_sessions_newest", database="library")
    work = its.work_of(OF_AN_OPERATOR["everybody's conversations"](its))
    cluster.execute(definition, database="library")
    assert (before.scans, work.scans) == ({}, {"chat_sessions": 1})
    assert work.blocks > before.blocks
    its.store.close()


def test_the_meter_sees_an_index_read_through(cluster: PostgresCluster, library: str) -> None:
    its = Metered(library)
    few, many = (its.work_of(lambda n=n: its.store.turns("alice", "c1", limit=n)) for n in (20, 2_000))
    assert many.blocks > few.blocks * 50
    its.store.close()
