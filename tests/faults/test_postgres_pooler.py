"""Behind a pooler that shares few servers among many clients, nothing is prepared; on a direct connection all is."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import pgbouncer
from servers.pgbouncer import PgBouncer
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import ServerMissing

from perdure.middleware.persistence.stores.postgres import PostgresStore, connections, functions
from perdure.middleware.persistence.stores.postgres.faults import speaks_of_preparing
from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.store_bench import at_once
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
THREADS, TURNS = 32, 8

# Functions that look into, and meddle with, the server process that happens to run them.
LOOK = "select coalesce(json_agg(name order by name), '[]') from pg_prepared_statements where name like '_pg3_%'"
MEDDLING = f"""
create function prepared() returns json language sql as $$ {LOOK} $$;
create function forget() returns json language plpgsql as
    $$ begin deallocate all; return '[]'; end $$;
create function occupy(statement text) returns json language plpgsql as $$ begin
    for n in 0..30 loop execute format('prepare _pg3_%s as %s', n, statement); end loop; return '[]'; end $$;
create function supplant(statement text) returns json language plpgsql as
    $$ begin deallocate all; return occupy(statement); end $$;
"""


@pytest.fixture(scope="module")
def bouncer(postgres: PostgresCluster) -> Iterator[PgBouncer]:
    with PgBouncer(postgres, pool_size=3) as bouncer:
        yield bouncer


@pytest.fixture
def database(postgres: PostgresCluster, database_url: str) -> str:
    name = database_url.rpartition("/")[2]
    postgres.execute(MEDDLING, database=name)
    return name


@pytest.fixture
def direct(postgres: PostgresCluster, database: str) -> Iterator[PostgresFunctions]:
    """One direct connection."""
    functions = PostgresFunctions(postgres.url(database), timeout=5, max_connections=1)
    yield functions
    functions.close()


@pytest.fixture
def pooled(bouncer: PgBouncer, database: str) -> Iterator[PostgresFunctions]:
    """Up to 32 connections to the pooler."""
    functions = PostgresFunctions(bouncer.url(database), timeout=20, max_connections=THREADS)
    yield functions
    functions.close()


def keep(store: SqlFunctionStore, name: str, number: int) -> int:
    """Keeps a turn and looks at the conversation; the turn's place."""
    turn = a_turn(f"{number}", continuation_id=name)
    place = store.begin(turn, WINDOW).place
    assert store.finish(answered(turn, f"answer to {number}")).place == place
    (found,) = store.turns("alice", name, after=place - 1, limit=1)
    assert found.prompt == f"{number}"
    return place


def crowd(store: SqlFunctionStore) -> None:
    """32 threads at once, on four conversations, find all that they kept."""

    def work(thread: int) -> list[int]:
        return [keep(store, f"c{thread % 4}", thread * 1000 + number) for number in range(TURNS)]

    places = at_once(work, range(THREADS))
    for conversation in range(4):
        taken = sorted(place for of_thread in places[conversation::4] for place in of_thread)
        assert taken == list(range(1, THREADS // 4 * TURNS + 1))
        turns = store.turns("alice", f"c{conversation}", limit=1000)
        assert all(turn.answer and turn.answer.text == f"answer to {turn.prompt}" for turn in turns)


def test_statements_are_prepared_on_a_direct_connection(direct: PostgresFunctions) -> None:
    store = SqlFunctionStore(direct)
    for number in range(10):
        keep(store, "c", number)
    assert len(direct.call("prepared", {})) == 3


def test_32_threads_behind_a_pool_of_three_keep_all_and_prepare_nothing(
    pooled: PostgresFunctions, bouncer: PgBouncer, database: str
) -> None:
    crowd(SqlFunctionStore(pooled))
    assert all(names == [] for names in at_once(lambda _: pooled.call("prepared", {}), range(20)))
    [servers] = [pool for pool in bouncer.show("pools") if pool["database"] == database]
    # Many more than the servers; not all of them, where threads found others to go along with.
    assert 3 * 3 < servers["cl_active"] + servers["cl_waiting"] <= THREADS
    assert servers["sv_active"] + servers["sv_idle"] + servers["sv_used"] + servers["sv_tested"] == 3


def test_where_a_pooler_was_not_recognized_preparing_is_given_up_and_every_call_succeeds(
    pooled: PostgresFunctions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "is_direct", lambda _: True)
    crowd(SqlFunctionStore(pooled))
    assert pooled._connections.prepare is False
    crowd_again = SqlFunctionStore(pooled)
    assert keep(crowd_again, "afterwards", 1) == 1


@pytest.mark.parametrize(
    ("meddle", "state"),
    [
        (lambda its: its.call("forget", {}), "26000"),
        (lambda its: its.call("occupy", {"statement": "select 1"}), "42P05"),
        (lambda its: its.call("supplant", {"statement": "select 1"}), "08P01"),
    ],
    ids=["a statement is gone", "its name is taken", "its name is another's"],
)
def test_a_call_succeeds_though(
    direct: PostgresFunctions,
    meddle: Callable[[PostgresFunctions], object],
    state: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noticed: list[str | None] = []
    monkeypatch.setattr(
        functions, "speaks_of_preparing", lambda error: noticed.append(error.sqlstate) or speaks_of_preparing(error)
    )
    store = SqlFunctionStore(direct)
    warm = 4 if state == "42P05" else 10  # its fifth use prepares a statement
    places = [keep(store, "c", number) for number in range(warm)]
    meddle(direct)
    places += [keep(store, "c", number) for number in range(10)]
    assert places == list(range(1, warm + 11))
    assert noticed == [state]
    assert direct._connections.prepare is False
    assert direct.call("prepared", {}) == []


def test_a_pgbouncer_that_is_missing_is_no_reason_to_skip(
    postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pgbouncer, "FETCHED", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ServerMissing, match="fetch_pgbouncer.sh"):
        PgBouncer(postgres)


def test_the_store_itself_finds_out_what_is_at_the_other_end(
    postgres: PostgresCluster, bouncer: PgBouncer, database_url: str
) -> None:
    database = database_url.rpartition("/")[2]
    for url, prepared in ((database_url, True), (bouncer.url(database), False)):
        store = PostgresStore(url)
        with store._functions._connections.one(time.monotonic() + 5) as connection:
            assert (connection.prepare_threshold is not None) is prepared
        store.close()
