"""A turn in Supabase, beside two bare requests with the same bodies over the same transport: cost, growth, 16 at once.

Supabase is a stand-in for its gateway here, in a process of its own over a real Postgres: the network between is not
measured, and each request costs what that process in Python costs.
"""

import asyncio
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg

from benchmarks.content import answer_to, prompt_of
from benchmarks.engine_turns import PRINCIPAL, KeptTurns, one_turn
from benchmarks.going_on import at_once, by_threads
from benchmarks.harness import Candidate, Comparison, Goal, Result, interleaved, time_each
from benchmarks.peer_turns import OURS, PeerKind, opened, rates, standing_beside, verified
from benchmarks.peers.process import PeerProcess
from benchmarks.table_gateway import table_gateway
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.runtime import redactor_for
from perdure.middleware.persistence.stores.sql_functions import SqlFunctions, SqlFunctionStore
from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.stores.supabase.functions import SupabaseFunctions
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.supabase_api.deadline import DeadlineTransport, within
from perdure.middleware.persistence.turn import Json
from perdure.settings import Settings

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the servers that the tests bring
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

__all__ = ["run"]

_SIZES = (100, 10_000)
"""Messages that are there already; two make a turn."""

_TURNS = 20
"""In one round, for each candidate."""

_THREADS = 16

_PEER = PeerKind("supabase-strands SupabaseSessionManager", "supabase-strands", "supabase_strands", ())


def run(rounds: int, _folder: Path) -> list[Result]:
    with ExitStack() as stack:
        cluster = stack.enter_context(PostgresCluster())
        project = stack.enter_context(SupabaseStack(cluster, process=True))
        kept = stack.enter_context(
            closing(KeptTurns(SupabaseStore(SupabaseApi(project.url, project.secret_key), timeout=30)))
        )
        bare = stack.enter_context(closing(_BareRequests(project)))
        with psycopg.connect(project.db_url, autocommit=True) as plain:
            for size in _SIZES:
                _plant(plain, f"long-{size}", size // 2)
                _plant(plain, f"bare-{size}", size // 2)
            for number in range(_THREADS):
                _plant(plain, f"many-{number}", 50)
                _plant(plain, f"bare-many-{number}", 50)
        with psycopg.connect(cluster.url(project.database), autocommit=True) as superuser:
            superuser.execute("vacuum analyze")
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS))
        on_loop = at_once(kept.turn_of_a_call, stack.enter_context(asyncio.Runner()), _names("many"), 4 * _THREADS)
        peers, notes = opened(stack, (_PEER,), lambda _: stack.enter_context(table_gateway(_tables(cluster))))
        for peer in peers.values():
            peer.plant("long-100", 100)
        results = [
            interleaved(_cost(bare, kept), rounds),
            interleaved(_throughput(bare, kept, pool, on_loop), rounds),
            interleaved(_beside_peer(kept, peers), rounds),
            together := interleaved(_at_once_beside_peer(on_loop, peers), rounds),
        ]
        note = f"Verified: all {kept.verified():,} acknowledged turns are there, in their places, with their answers."
        cost, throughput, beside, _ = results
        return [
            replace(cost, notes=[note]),
            throughput,
            replace(beside, notes=[*notes, *verified(peers)]),
            replace(together, notes=[standing_beside(together.lines, goal=2)]),
        ]


class _BareRequests:
    """The same two functions with the same bodies over the same transport, and nothing of perdure around them."""

    def __init__(self, project: SupabaseStack) -> None:
        transport = DeadlineTransport(project.url, most_connections=_THREADS)
        headers = {"apikey": project.secret_key, "Authorization": f"Bearer {project.secret_key}"}
        self._http = httpx.Client(
            base_url=f"{project.url}/rest/v1/rpc/", headers=headers, transport=transport, timeout=None
        )
        self._begin, self._finish = _recorded(project)
        self._known: dict[str, dict[int, int]] = {}
        """Versions of turns by place, by conversation: what is known need not travel here either."""

    def two(self, continuation_id: str) -> None:
        turn_id, answer_id = str(uuid.uuid4()), str(uuid.uuid4())
        known = self._known.get(continuation_id, {})
        told = {"turn_id": turn_id, "continuation_id": continuation_id, "known": list(known.values())}
        (begun,) = self._call("begin_turns", {"beginnings": [{**self._begin, **told}]})
        self._known[continuation_id] = {
            (line if isinstance(line, int) else line["place"]): (
                known[line] if isinstance(line, int) else line["version"]
            )
            for line in begun["history"]
        }
        self._call("finish_turns", {"endings": [{**self._finish, "turn_id": turn_id, "answer_id": answer_id}]})

    def _call(self, function: str, arguments: dict[str, object]) -> list[Json]:
        with within(time.monotonic() + 30):
            return list(self._http.post(function, json=arguments).raise_for_status().json()["turns"])

    def close(self) -> None:
        self._http.close()


class _Recorder:
    """Carries calls, and keeps what they were given."""

    def __init__(self, functions: SqlFunctions) -> None:
        self.where = functions.where
        self.timeout = functions.timeout
        self.given: list[dict[str, Json]] = []
        self._functions = functions

    def call(self, function: str, arguments: Mapping[str, Json], **how: Any) -> Json:
        self.given.append({name: value for name, value in arguments.items() if value is not None})
        return self._functions.call(function, arguments, **how)

    def close(self) -> None:
        self._functions.close()


def _recorded(project: SupabaseStack) -> tuple[dict[str, Json], dict[str, Json]]:
    """The bodies of one turn's two requests."""
    recorder = _Recorder(SupabaseFunctions(SupabaseApi(project.url, project.secret_key), timeout=30))
    with closing(SqlFunctionStore(recorder)) as store:
        one_turn(wiring.build(Settings(), store=store), redactor_for(True, ()), "recorded", 1)
    begin, finish = recorder.given
    return begin["beginnings"][0], finish["endings"][0]


def _cost(bare: _BareRequests, kept: KeptTurns) -> Comparison:
    def floor(size: int) -> str:
        return f"floor: two bare requests, {size:,} messages"

    return Comparison(
        name="supabase",
        title="A Supabase turn (begin and finish), 40 messages of history read, in a conversation that has so many",
        unit="ms",
        reference=f"{_SIZES[0]:,} messages",
        candidates=[
            *(Candidate(name=floor(size), measure=_each(bare.two, f"bare-{size}")) for size in _SIZES),
            *(
                Candidate(
                    name=f"{size:,} messages",
                    measure=_each(kept.turn, f"long-{size}"),
                    floor=floor(size),
                    goal=Goal(quantity="ratio", limit=1.15),
                )
                for size in _SIZES
            ),
        ],
    )


def _throughput(
    bare: _BareRequests, kept: KeptTurns, pool: ThreadPoolExecutor, on_loop: Callable[[], float]
) -> Comparison:
    floor = f"floor: two bare requests, {_THREADS} at once"

    return Comparison(
        name="supabase",
        title=f"Supabase turns on {_THREADS} conversations of 100 messages, {_THREADS} at once",
        unit="turns/s",
        more_is_better=True,
        candidates=[
            Candidate(name=floor, measure=_in_threads(pool, bare.two, "bare-many")),
            Candidate(name=f"{_THREADS} threads", measure=_in_threads(pool, kept.turn, "many"), floor=floor),
            Candidate(name=f"{_THREADS} calls on an event loop", measure=on_loop, floor=floor),
        ],
    )


def _in_threads(pool: ThreadPoolExecutor, work: Callable[[str], None], name: str) -> Callable[[], float]:
    return by_threads(work, pool, _names(name), 4 * _THREADS, threads=_THREADS)


def _names(name: str) -> list[str]:
    return [f"{name}-{number}" for number in range(_THREADS)]


def _tables(cluster: PostgresCluster) -> str:
    """A database with the tables of supabase-strands, as its documentation says."""
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute("create database strands")
    url = cluster.url("strands")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "create table sessions (session_id text primary key, session_type text, created_at timestamptz,"
            " updated_at timestamptz);"
            "create table messages (session_id text, agent_id text, message_id integer, message jsonb,"
            " redact_message jsonb, created_at timestamptz, updated_at timestamptz,"
            " primary key (session_id, agent_id, message_id))"
        )
    return url


def _beside_peer(kept: KeptTurns, peers: Mapping[PeerKind, PeerProcess]) -> Comparison:
    return Comparison(
        name="supabase",
        title="A Supabase turn in a conversation of 100 messages; each through a stand-in in Python",
        unit="ms",
        candidates=[
            Candidate(name=OURS, measure=_each(kept.turn, "long-100")),
            *(
                Candidate(name=kind.name, measure=partial(peer.turns, "long-100", _TURNS // 4), floor=OURS)
                for kind, peer in peers.items()
            ),
        ],
    )


def _at_once_beside_peer(on_loop: Callable[[], float], peers: Mapping[PeerKind, PeerProcess]) -> Comparison:
    return rates(
        "supabase",
        f"Turns in Supabase, on {_THREADS} conversations at once, each through a stand-in in Python",
        on_loop,
        {kind: partial(peer.at_once, _names("many"), 4 * _THREADS) for kind, peer in peers.items()},
        file="throughput-supabase",
    )


def _each(work: Callable[[str], None], continuation_id: str) -> Callable[[], float]:
    return lambda: time_each(lambda: work(continuation_id), _TURNS) / 1000


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
