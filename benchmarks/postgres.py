"""A turn in a real Postgres, beside the same SQL function over a bare driver and beside peers: alone, many at once."""

import asyncio
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg

from benchmarks.content import answer_to, prompt_of
from benchmarks.engine_turns import PRINCIPAL, WINDOW, KeptTurns
from benchmarks.going_on import at_once, by_threads
from benchmarks.harness import Candidate, Comparison, Goal, Result, interleaved, time_each
from benchmarks.peer_turns import OURS, PeerKind, opened, rates, standing_beside, verified
from benchmarks.peers.process import PeerProcess
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.stores.postgres import PostgresStore

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the servers that the tests bring
from servers.postgres_cluster import PostgresCluster

__all__ = ["run"]

_SIZES = (100, 10_000)
"""Messages that are there already; two make a turn."""

_TURNS = 40
"""In one round, for each candidate."""

_CONVERSATIONS = 64
_MANY = [f"many-{number}" for number in range(_CONVERSATIONS)]
_THREADS = 64

_PEERS = (
    PeerKind("openai-agents SQLAlchemySession", "openai-agents", "openai_agents", ("postgres",)),
    PeerKind("mcp-persist PostgresEventStore", "mcp-persist", "mcp_persist", ("postgres",)),
    PeerKind("langgraph AsyncPostgresSaver", "langgraph", "langgraph", ("postgres",)),
    PeerKind("google-adk DatabaseSessionService", "google-adk", "google_adk", ("postgres",)),
)

_FLOOR = "floor: begin_turn over a bare driver"


def run(rounds: int, _folder: Path) -> list[Result]:
    with ExitStack() as stack:
        cluster = stack.enter_context(PostgresCluster())
        url = cluster.url()
        migrations.apply(url, "the benchmark's", lambda _: None)
        plain = stack.enter_context(psycopg.connect(url, autocommit=True))
        kept = stack.enter_context(closing(KeptTurns(PostgresStore(url))))
        for size in _SIZES:
            _plant(plain, f"long-{size}", size // 2)
            _plant(plain, f"raw-{size}", size // 2)
        for name in _MANY:
            _plant(plain, name, 50)
        peers, notes = opened(stack, _PEERS, lambda kind: _empty_database(cluster, kind))
        for peer in peers.values():
            peer.plant("long-100", 100)
        plain.execute("vacuum analyze")
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS))
        on_loop = at_once(kept.turn_of_a_call, stack.enter_context(asyncio.Runner()), _MANY, 4 * _CONVERSATIONS)
        results = [
            interleaved(_cost(plain, kept), rounds),
            interleaved(_throughput(plain, kept, pool, on_loop), rounds),
            interleaved(_beside_peers(kept, peers), rounds),
            together := interleaved(_at_once_beside_peers(on_loop, peers), rounds),
        ]
        size = plain.execute("select sum(length(content)) from chat_messages").fetchone()
        on_disk = plain.execute(
            "select sum(pg_total_relation_size(c)) from unnest("
            "array['chat_messages', 'chat_sessions', 'chat_words', 'chat_words_due']::regclass[]) c"
        ).fetchone()
        ratio = (on_disk or [0])[0] / (size or [1])[0]
        note = f"Verified: all {kept.verified():,} acknowledged turns are there, in their places, with their answers."
        disk = f"On disk, indexes included: {ratio:.2f} x the text of the messages (this server has no lz4)."
        cost, throughput, beside, _ = results
        return [
            replace(cost, notes=[note, disk]),
            throughput,
            replace(beside, notes=[*notes, *verified(peers)]),
            replace(together, notes=[standing_beside(together.lines)]),
        ]


def _cost(plain: psycopg.Connection, kept: KeptTurns) -> Comparison:
    return Comparison(
        name="postgres",
        title="A Postgres turn (begin and finish), 40 messages of history read, in a conversation that has so many",
        unit="ms",
        reference=f"{_SIZES[0]:,} messages",
        candidates=[
            Candidate(name=_FLOOR, measure=lambda: time_each(lambda: _raw_begin(plain, "raw-100"), _TURNS) / 1000),
            *(
                Candidate(
                    name=f"{size:,} messages",
                    measure=_each_turn(kept, f"long-{size}"),
                    floor=_FLOOR,
                    goal=Goal(quantity="ratio", limit=2.3),
                )
                for size in _SIZES
            ),
        ],
    )


def _throughput(
    plain: psycopg.Connection, kept: KeptTurns, pool: ThreadPoolExecutor, on_loop: Callable[[], float]
) -> Comparison:
    floor = "floor: begin_turn over a bare driver, one after the other"

    def raw() -> float:
        started = time.perf_counter()
        for name in _MANY:
            _raw_begin(plain, name)
        return _CONVERSATIONS / (time.perf_counter() - started)

    return Comparison(
        name="postgres",
        title=f"Postgres turns on {_CONVERSATIONS} conversations of 100 messages, 8 connections",
        unit="turns/s",
        more_is_better=True,
        candidates=[
            Candidate(name=floor, measure=raw),
            Candidate(name=f"{_THREADS} threads", measure=_in_threads(kept, pool), floor=floor),
            Candidate(name=f"{_CONVERSATIONS} calls on an event loop", measure=on_loop, floor=floor),
        ],
    )


def _empty_database(cluster: PostgresCluster, kind: PeerKind) -> str:
    name = kind.environment.replace("-", "_")
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return cluster.url(name)


def _beside_peers(kept: KeptTurns, peers: dict[PeerKind, PeerProcess]) -> Comparison:
    few = _TURNS // 4
    return Comparison(
        name="postgres",
        title="A Postgres turn, 40 messages of history read, in a conversation of 100 messages",
        unit="ms",
        candidates=[
            Candidate(name=OURS, measure=lambda: time_each(lambda: kept.turn("long-100"), few) / 1000),
            *(
                Candidate(name=kind.name, measure=partial(peer.turns, "long-100", few), floor=OURS)
                for kind, peer in peers.items()
            ),
        ],
    )


def _at_once_beside_peers(on_loop: Callable[[], float], peers: dict[PeerKind, PeerProcess]) -> Comparison:
    return rates(
        "postgres",
        f"Turns in Postgres, on {_CONVERSATIONS} conversations at once over 8 connections",
        on_loop,
        {kind: partial(peer.at_once, _MANY, 4 * _CONVERSATIONS) for kind, peer in peers.items()},
        file="throughput-postgres",
    )


def _in_threads(kept: KeptTurns, pool: ThreadPoolExecutor) -> Callable[[], float]:
    return by_threads(kept.turn, pool, _MANY, 4 * _CONVERSATIONS, threads=_THREADS)


def _each_turn(kept: KeptTurns, continuation_id: str) -> Callable[[], float]:
    return lambda: time_each(lambda: kept.turn(continuation_id), _TURNS) / 1000


def _raw_begin(plain: psycopg.Connection, continuation_id: str) -> None:
    plain.execute(
        "select public.begin_turn(%s, %s, %s, 'chat', 'digest', %s, null, now(), now(), max_turns => %s)",
        (uuid.uuid4(), PRINCIPAL, continuation_id, prompt_of(1), WINDOW.turns),
    ).fetchone()


def _plant(plain: psycopg.Connection, continuation_id: str, turns: int) -> None:
    """Turns that are there beforehand, by the functions themselves."""
    with plain.transaction():
        for number in range(turns):
            turn_id, prompt = uuid.uuid4(), prompt_of(number)
            plain.execute(
                "select public.finish_turn(%s, %s, %s, 'd', 'answered', %s, null, 10, now(), continuation_id => %s,"
                " tool => 'chat', content => %s, started_at => now(), lease_until => now())",
                (turn_id, uuid.uuid4(), PRINCIPAL, answer_to(prompt), continuation_id, prompt),
            )
