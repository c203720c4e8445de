"""How many connections a process makes, what it says when it has no more, and how often it crosses the network."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from servers.cutting_proxy import CuttingProxy
from servers.postgres_cluster import PostgresCluster

from perdure.errors import StoreTimeout
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import StoredFile, Turn, Window
from perdure.testing.store_bench import at_once
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
MOST = 4


@pytest.fixture
def watcher(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def connections(watcher: psycopg.Connection) -> int:
    asked = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'perdure'"
    (found,) = watcher.execute(asked).fetchone() or (-1,)
    return int(found)


def test_64_threads_share_the_connections_that_a_process_may_have(
    database_url: str, watcher: psycopg.Connection
) -> None:
    store = PostgresStore(database_url, timeout=30, max_connections=MOST)
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(connections(watcher))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        at_once(lambda n: store.finish(answered(a_turn(f"{n}", continuation_id=f"c{n % 8}"))), range(64))
    finally:
        over.set()
        watching.join()
    assert len(seen) > 5
    assert max(seen) == MOST
    assert connections(watcher) == MOST
    store.close()


def test_a_connection_that_is_not_needed_is_not_made(database_url: str, watcher: psycopg.Connection) -> None:
    store = PostgresStore(database_url, max_connections=MOST)
    assert connections(watcher) == 0
    for _ in range(10):
        store.turns("alice", "c")
    assert connections(watcher) == 1
    store.close()


def test_a_closed_store_has_no_connections_and_opens_them_again_when_it_is_used(
    database_url: str, watcher: psycopg.Connection
) -> None:
    store = PostgresStore(database_url)
    store.turns("alice", "c")
    store.close()
    until = time.monotonic() + 5
    while connections(watcher) and time.monotonic() < until:
        time.sleep(0.005)
    assert connections(watcher) == 0
    assert store.turns("alice", "c") == []
    store.close()


def test_where_all_connections_are_in_use_a_call_waits_for_its_time_and_says_so(database_url: str) -> None:
    store = PostgresStore(database_url, timeout=0.4, max_connections=2)
    pool, later = store._functions._connections, time.monotonic() + 10
    with pool.one(later), pool.one(later):
        started = time.monotonic()
        with pytest.raises(StoreTimeout, match="All 2 connections to the database were in use") as caught:
            store.turns("alice", "c")
        assert 0.4 <= time.monotonic() - started < 0.9
    assert "max_connections" in caught.value.remedy
    assert store.turns("alice", "c") == []
    store.close()


def test_a_call_that_waits_for_a_connection_takes_the_first_that_is_free(database_url: str) -> None:
    store = PostgresStore(database_url, timeout=5, max_connections=1)
    pool = store._functions._connections

    def work(number: int) -> float:
        started = time.monotonic()
        if number == 0:
            with pool.one(started + 10):
                time.sleep(0.3)
        else:
            time.sleep(0.1)
            store.turns("alice", "c")
        return time.monotonic() - started

    _, waited = at_once(work, range(2))
    assert 0.25 < waited < 2
    store.close()


# ── round trips ──────────────────────────────────────────────────────────────────────────────────────────────


def a_file(name: str) -> StoredFile:
    return StoredFile(
        key=f"alice/{'0' * 64}/{name}", bucket="files", name=name, sha256="0" * 64, size=1, media_type="text/plain"
    )


@pytest.mark.parametrize("files", [(), (a_file("a.txt"), a_file("b.txt"))], ids=["no files", "two files"])
def test_a_turn_is_two_round_trips_over_a_warm_connection(
    postgres: PostgresCluster, database_url: str, files: tuple[StoredFile, ...]
) -> None:
    with CuttingProxy(postgres.port) as proxy:
        store = PostgresStore(proxy.url(database_url), max_connections=1)

        def keep() -> None:
            turn = a_turn("q", continuation_id="c")
            begun = store.begin(turn, WINDOW)
            store.finish(replace(answered(turn, "a"), place=begun.place, files=files))

        for _ in range(10):  # a connection is made, and what is used often is prepared
            keep()
        before = proxy.replies
        for _ in range(10):
            keep()
        assert proxy.replies - before == 20
        store.close()


def test_what_a_connection_costs_before_it_is_warm_is_one_round_trip_and_one_for_each_statement(
    postgres: PostgresCluster, database_url: str
) -> None:
    with CuttingProxy(postgres.port) as proxy:
        store = PostgresStore(proxy.url(database_url), max_connections=1)
        for _ in range(10):
            begin(store)
        assert proxy.replies == 10 + 1 + 1
        store.close()


def test_a_turn_whose_beginning_was_lost_costs_one_round_trip_more(
    postgres: PostgresCluster, database_url: str
) -> None:
    with CuttingProxy(postgres.port) as proxy:
        store = PostgresStore(proxy.url(database_url), max_connections=1)
        begin(store)
        before = proxy.replies
        store.finish(replace(answered(a_turn("q", continuation_id="c")), place=7))  # a place that the store never gave
        assert proxy.replies - before == 2
        store.close()


def begin(store: PostgresStore) -> Turn:
    turn = a_turn("q", continuation_id="c")
    store.begin(turn, WINDOW)
    return turn
