"""What one database carries: `python -m benchmarks.scale [--sqlite MESSAGES] [--postgres MESSAGES]`.

Fills a database with conversations of 100 messages each, then measures turns in it: p50, p99, plans, sizes, search and
purge. 1,000,000 messages take some minutes and 3 GB for SQLite, and as much again for Postgres; ten times as many in
Postgres an hour and 30 GB. Prints JSON.
"""

import argparse
import json
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.content import answer_to, prompt_of
from benchmarks.embedded import Embedded, Seed, name
from benchmarks.engine_turns import KeptTurns
from benchmarks.machine import Machine, folder_on_disk
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.question import Question, question_of
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the servers that the tests bring
from servers.postgres_cluster import PostgresCluster

_LENGTH = 100
"""Messages in each conversation."""

_TURNS = 1_000
"""Measured, each in another conversation than the one before."""

_SERVER = {"shared_buffers": "4GB", "effective_cache_size": "12GB", "max_wal_size": "8GB"}
"""Of Postgres, on a machine of 24 GiB: what its manual recommends for a server of its own."""

_RARE = 20
"""Messages that hold each rare word."""

_TOLD_WITHIN = 1.5
"""Seconds. Sessions tell the server's statistics once a second what they did."""

_FREQUENT = 50
"""Words of which each conversation has one."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--sqlite", type=int, metavar="MESSAGES")
    parser.add_argument("--postgres", type=int, metavar="MESSAGES")
    arguments = parser.parse_args()
    folder = folder_on_disk()
    found: dict[str, Any] = {"machine": str(Machine.here(folder))}
    if arguments.sqlite:
        with tempfile.TemporaryDirectory(prefix="perdure-scale-", dir=folder) as temporary:
            found["sqlite"] = _sqlite(arguments.sqlite, Path(temporary) / "perdure.db")
    if arguments.postgres:
        with PostgresCluster(settings=_SERVER) as cluster:
            found["postgres"] = _postgres(arguments.postgres, cluster)
    print(json.dumps(found, indent=2))


def _sqlite(messages: int, path: Path) -> dict[str, Any]:
    conversations = messages // _LENGTH
    started = time.monotonic()
    with closing(Embedded(path, Seed(conversations, _LENGTH))) as database:
        filled = time.monotonic() - started
        taken = _each(lambda number: database.turn(name(number * 7919 % conversations)))
        verified = database.verified()
    with closing(sqlite3.connect(path)) as connection:
        content, rows = connection.execute("SELECT sum(length(content)), count(*) FROM chat_messages").fetchone()
        parts = dict(connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name").fetchall())
        plans = dict(_sqlite_plans(connection))
    size = path.stat().st_size
    with closing(SqliteStore(path)) as store:
        started = time.monotonic()
        store.search(_question("question"), limit=1)
        made_ready = time.monotonic() - started
        search = {
            f"a word that {_LENGTH} messages have": _each(
                lambda number: store.search(_question(str(1 + number * 7919 % conversations)))
            ),
            "a word that all messages have": _each(lambda _: store.search(_question("question")), times=5),
        }
        index = path.with_name("perdure-search.db").stat().st_size
        purge = _purged_in_sqlite(path, store)
    return {
        "messages": rows,
        "conversations": conversations,
        "seconds to fill": round(filled),
        "bytes": size,
        "bytes of the search index": index,
        "seconds of the first search": round(made_ready, 1),
        "search, ms": search,
        "purge of 100 conversations, ms": purge,
        "bytes of content": content,
        "bytes of tables and indexes": {key: size for key, size in parts.items() if size > 1 << 20},
        "turn, ms": taken,
        "turns verified": verified,
        "plans": plans,
    }


def _question(words: str) -> Question:
    return question_of(words, datetime.now(UTC))


def _purged_in_sqlite(path: Path, store: SqliteStore) -> float:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE chat_sessions SET expires_at = '2026-01-01T00:00:00+00:00' WHERE id IN"
            " (SELECT id FROM chat_sessions LIMIT 100)"
        )
    started = time.perf_counter()
    if store.purge(limit=100).conversations != 100:
        raise AssertionError("Not all that has expired was purged")
    return round((time.perf_counter() - started) * 1000, 1)


def _sqlite_plans(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    queries = named_queries("sqlite/queries.sql")
    for query in ("find_turn", "find_session", "take_place", "add_answer", "window", "turns_between", "read_turns"):
        numbered = re.findall(r"\?(\d+)", queries[query])
        named = dict.fromkeys(re.findall(r":(\w+)", queries[query]), 1)
        wanted = (1,) * max(map(int, numbered)) if numbered else named
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {queries[query]}", wanted)]
        yield query, "; ".join(steps)


def _postgres(messages: int, cluster: PostgresCluster) -> dict[str, Any]:
    conversations = messages // _LENGTH
    url = cluster.url()
    migrations.apply(url, "the benchmark's", lambda _: None)
    with psycopg.connect(url, autocommit=True) as plain, closing(KeptTurns(PostgresStore(url))) as kept:
        started = time.monotonic()
        _fill_postgres(plain, conversations)
        filled = time.monotonic() - started
        before = _in_all(plain)
        time.sleep(_TOLD_WITHIN)
        plain.execute("select pg_stat_reset()")  # the count above is a scan itself
        taken = _each(lambda number: kept.turn(f"c-{number * 7919 % conversations}"))
        scans = _scans(plain)
        started = time.monotonic()
        _make_words(plain)
        made_ready = time.monotonic() - started
        plain.execute("vacuum analyze")
        after = _in_all(plain)
        rare, frequent = conversations * 2 // _RARE, _FREQUENT
        found = {
            f"a word that {_RARE} messages have": _each(lambda number: _search(plain, f"rare{number * 7919 % rare}")),
            f"a word that {conversations * 2 // frequent:,} messages have": _each(
                lambda number: _search(plain, f"frequent{number % frequent}")
            ),
            "a word that all messages have": _each(lambda _: _search(plain, "forget"), times=3),
            "two rare words": _each(lambda number: _search(plain, f"rare{number % rare} rare{(number + 1) % rare}")),
        }
        taken_with_words = _each(lambda number: kept.turn(f"c-{number * 7919 % conversations}"))
        verified = kept.verified()
        purge = _purged(plain)
        return {
            "settings": _SERVER,
            "conversations": conversations,
            "seconds to fill": round(filled),
            "before anybody searches": before,
            "turn, ms": taken,
            "sequential scans of chat_messages in 1,020 turns": scans,
            "seconds of the first search": round(made_ready),
            "after it": after,
            "search, ms": found,
            "turn after it, ms": taken_with_words,
            "turns verified": verified,
            "purge of 100 conversations, ms": purge,
        }


def _in_all(plain: psycopg.Connection) -> dict[str, Any]:
    messages, content = plain.execute(
        "select count(*), sum(octet_length(content)) from public.chat_messages"
    ).fetchone() or (0, 0)
    sizes = plain.execute(
        "select relname, case relkind when 'r' then pg_table_size(oid) else pg_relation_size(oid) end from pg_class"
        " where relname like 'chat\\_%' and relkind in ('r', 'i') order by 2 desc"
    ).fetchall()
    return {
        "messages": messages,
        "bytes of content": int(content),
        "bytes in all": sum(size for _, size in sizes),
        "bytes of tables and indexes": {name: size for name, size in sizes if size > 1 << 20},
    }


def _scans(plain: psycopg.Connection) -> int:
    time.sleep(_TOLD_WITHIN)
    (scans,) = plain.execute("select seq_scan from pg_stat_user_tables where relname = 'chat_messages'").fetchone() or (
        -1,
    )
    return int(scans)


def _make_words(plain: psycopg.Connection) -> None:
    """As whoever searches first does."""
    reply = {"left": True, "after": "(0,0)"}
    while reply["left"]:
        (reply,) = plain.execute("select public.keep_words(after => %s)", [reply["after"]]).fetchone() or ({},)


def _search(plain: psycopg.Connection, words: str) -> None:
    plain.execute("select public.search_messages('local', %s)", [words])


def _fill_postgres(plain: psycopg.Connection, conversations: int) -> None:
    """By the server itself: rows as `finish_turn` writes them, with texts that differ and a word that is rare."""
    prompt, answer = prompt_of(0)[20:], answer_to(prompt_of(0))[40:]
    plain.execute(
        "insert into public.chat_sessions (continuation_id, user_id, last_place, expires_at) select 'c-' || n, 'local',"
        " %s, case when n %% 10 = 0 then now() + interval '1 year' end from generate_series(0, %s) n",
        (_LENGTH // 2, conversations - 1),
    )
    plain.execute(
        "insert into public.chat_messages (id, session_id, turn_id, turn_seq, part, tokens, role, content, body,"
        " user_id, tool, digest, outcome, lease_until)"
        " select case part when 0 then turn else gen_random_uuid() end, session, turn, place, part,"
        "   case part when 1 then 600 else 0 end, case part when 0 then 'user' else 'assistant' end,"
        "   md5(turn::text)"
        "     || case when place = 7 then ' rare' || number %% %s || ' frequent' || number %% %s || ' ' else '' end"
        "     || case part when 0 then %s else %s end,"
        "   case part when 0 then '4' else '10' end, 'local', case part when 0 then 'chat' end,"
        "   case part when 0 then md5(turn::text) || md5(turn::text) end, case part when 1 then 'answered' end,"
        "   case part when 0 then now() end"
        "  from (select s.id as session, substr(s.continuation_id, 3)::integer as number, p as place,"
        "               gen_random_uuid() as turn"
        "          from public.chat_sessions s, generate_series(1, %s) p) t, generate_series(0, 1) part",
        (conversations * 2 // _RARE, _FREQUENT, prompt, answer, _LENGTH // 2),
    )
    plain.execute("vacuum analyze")


def _purged(plain: psycopg.Connection) -> float:
    plain.execute(
        "update public.chat_sessions set expires_at = now() - interval '1 day'"
        " where id in (select id from public.chat_sessions where expires_at is not null limit 100)"
    )
    started = time.perf_counter()
    plain.execute("select public.purge_expired(100)")
    return round((time.perf_counter() - started) * 1000, 1)


def _each(work: Callable[[int], object], times: int = _TURNS) -> dict[str, float]:
    for number in range(min(times, 20)):
        work(number)  # connections are open and statements prepared
    taken = []
    for number in range(20, 20 + times):
        started = time.perf_counter()
        work(number)
        taken.append((time.perf_counter() - started) * 1000)
    taken.sort()
    return {"p50": round(taken[times // 2], 2), "p99": round(taken[times * 99 // 100], 2)}


if __name__ == "__main__":
    main()
