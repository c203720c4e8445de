"""A Postgres that goes away, hangs and comes back: calls come back in time, and what works again is used again."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from conftest import Activate
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_wire import kept, wire
from servers.cutting_proxy import CuttingProxy
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import free_port, wait_until

from perdure import install, persisted
from perdure.errors import StoreTimeout, StoreUnavailable
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.store_bench import at_once
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
GRACE = 0.5
"""Seconds that a call may take beyond its time-out."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster() as cluster:
        migrations.apply(cluster.url(), "postgres", lambda _: None)
        yield cluster


@pytest.fixture
def store(cluster: PostgresCluster) -> Iterator[PostgresStore]:
    """With four idle connections."""
    made = PostgresStore(cluster.url(), timeout=1.0)
    open_connections(made, cluster)
    yield made
    made.close()


def open_connections(store: PostgresStore, cluster: PostgresCluster, *, number: int = 4) -> None:
    with cluster_busy(cluster):
        at_once(lambda n: store.finish(answered(a_turn("q", continuation_id=f"{n}"))), range(number))
    assert len(backends(cluster)) == number


@contextmanager
def cluster_busy(cluster: PostgresCluster) -> Iterator[None]:
    """Calls take so long that each needs a connection of its own."""
    cluster.execute(
        "create function busy() returns trigger language plpgsql as 'begin perform pg_sleep(0.2); return new; end'"
    )
    cluster.execute("create trigger busy before insert on chat_messages execute function busy()")
    try:
        yield
    finally:
        cluster.execute("drop function busy cascade")


def backends(cluster: PostgresCluster) -> set[int]:
    rows = cluster.execute("select pid from pg_stat_activity where application_name = 'perdure'")
    return {pid for (pid,) in rows}


def works(store: PostgresStore) -> bool:
    turn = a_turn("q", continuation_id="works")
    return store.begin(turn, WINDOW).place == store.finish(answered(turn)).place


def refused(work: Callable[[], object]) -> tuple[float, StoreUnavailable]:
    """The seconds that the refusal took, and the refusal."""
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        work()
    return time.monotonic() - started, caught.value


# ── connections that are cut ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", [PostgresCluster.stop, PostgresCluster.kill], ids=["stopped", "killed"])
def test_after_a_restart_of_the_server_calls_succeed_as_if_nothing_had_been(
    cluster: PostgresCluster, store: PostgresStore, end: Callable[[PostgresCluster], None]
) -> None:
    end(cluster)
    cluster.start()
    assert at_once(lambda _: works(store), range(8)) == [True] * 8


def test_after_all_connections_were_terminated_calls_succeed_as_if_nothing_had_been(
    cluster: PostgresCluster, store: PostgresStore
) -> None:
    before = backends(cluster)
    cluster.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'perdure'")
    wait_until(lambda: not backends(cluster), "they live")
    assert works(store)
    assert not before & backends(cluster)
    assert at_once(lambda _: works(store), range(8)) == [True] * 8


def test_a_call_whose_connection_is_terminated_in_the_middle_is_made_again(
    cluster: PostgresCluster, store: PostgresStore
) -> None:
    def work(number: int) -> bool:
        if number:
            return works(store)
        time.sleep(0.1)
        cluster.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'perdure'")
        return True

    with cluster_busy(cluster):
        assert at_once(work, range(4)) == [True] * 4


def test_a_new_connection_that_is_cut_at_its_first_question_is_no_error(cluster: PostgresCluster) -> None:
    with CuttingProxy(cluster.port) as proxy:
        store = PostgresStore(proxy.url(cluster.url()))
        proxy.cut_next()
        assert works(store)
        assert proxy.cuts == 1
        store.close()


def test_a_database_that_cuts_every_reply_is_given_up_and_named(cluster: PostgresCluster) -> None:
    with CuttingProxy(cluster.port, cut_probability=1.0) as proxy:
        store = PostgresStore(proxy.url(cluster.url()))
        took, error = refused(lambda: works(store))
        assert took < 2
        assert "closed the connection" in error.what
        assert "what stands between" in error.remedy
        proxy.cut_probability = 0.0
        assert works(store)
        store.close()


# ── a server that hangs ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("timeout", [0.3, 1.0, 2.6])
def test_calls_to_a_server_that_hangs_come_back_in_time_and_work_again_afterwards(
    cluster: PostgresCluster, timeout: float
) -> None:
    """Those over a connection of before, and those that need a new one."""
    with CuttingProxy(cluster.port) as proxy:
        store = PostgresStore(proxy.url(cluster.url()), timeout=timeout)
        assert works(store)
        proxy.hang()
        for took, error in at_once(lambda _: refused(lambda: works(store)), range(3)):
            assert timeout <= took < timeout + GRACE
            assert type(error) is StoreTimeout
            assert f"did not answer within {timeout:g} s" in error.what
            assert "operation_timeout" in error.remedy
        proxy.release()
        assert works(store)
        store.close()


def test_a_server_whose_processes_are_all_stopped_holds_calls_up_for_their_time_and_no_longer(
    cluster: PostgresCluster, store: PostgresStore
) -> None:
    postmaster = psutil.Process(cluster.pid)
    stopped = [postmaster, *postmaster.children()]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        found = at_once(lambda _: refused(lambda: works(store)), range(8))
    finally:
        for process in reversed(stopped):
            process.send_signal(signal.SIGCONT)
    assert {type(error) for _, error in found} == {StoreTimeout}
    assert max(took for took, _ in found) < 1.0 + GRACE
    assert at_once(lambda _: works(store), range(8)) == [True] * 8


def test_connections_that_are_dead_without_a_word_cost_one_time_out_and_not_one_each(
    cluster: PostgresCluster, store: PostgresStore
) -> None:
    dead = [psutil.Process(pid) for pid in backends(cluster)]
    for process in dead:
        process.suspend()
    time.sleep(0.01)
    try:
        took, _ = refused(lambda: works(store))
        assert took < 1.0 + GRACE
        for _ in range(3):
            assert works(store)
    finally:
        for process in dead:
            process.resume()


def test_addresses_where_nothing_answers_share_the_time(cluster: PostgresCluster) -> None:
    with CuttingProxy(cluster.port) as hung, CuttingProxy(cluster.port) as another:
        hung.hang()
        another.hang()
        both = cluster.url().replace(f"127.0.0.1:{cluster.port}", f"127.0.0.1:{hung.port},localhost:{another.port}")
        store = PostgresStore(both, timeout=1.0)
        took, error = refused(lambda: works(store))
        assert isinstance(error, StoreTimeout)
        assert 1.0 <= took < 1.0 + GRACE
        another.release()
        assert works(store)
        store.close()


# ── a server that is not there ───────────────────────────────────────────────────────────────────────────────


def test_a_refused_connection_fails_at_once_and_says_so(cluster: PostgresCluster, store: PostgresStore) -> None:
    cluster.stop()
    try:
        for _ in range(3):
            took, error = refused(lambda: works(store))
            assert took < 0.5
            assert "Connection refused" in error.what
            assert "whether the server runs" in error.remedy
    finally:
        cluster.start()
    assert works(store)


def test_of_several_addresses_the_one_that_answers_is_used(cluster: PostgresCluster) -> None:
    places = f"127.0.0.1:{free_port()},no-such-host.invalid:1,127.0.0.1:{cluster.port}"
    store = PostgresStore(cluster.url().replace(f"127.0.0.1:{cluster.port}", places))
    assert works(store)
    store.close()


def test_of_several_addresses_that_do_not_answer_each_one_says_why(cluster: PostgresCluster) -> None:
    places = f"127.0.0.1:{free_port()},no-such-host.invalid:1"
    store = PostgresStore(cluster.url().replace(f"127.0.0.1:{cluster.port}", places))
    _, error = refused(lambda: works(store))
    assert "Connection refused" in error.what
    assert "no-such-host.invalid" in error.what


def test_a_port_that_takes_connections_and_closes_them_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        store = PostgresStore(f"postgresql://keeper:secret@127.0.0.1:{server.getsockname()[1]}/db")

        def work(number: int) -> object:
            if number:
                return refused(lambda: works(store))
            return server.accept()[0].close()

        _, (took, error) = at_once(work, range(2))  # type: ignore[misc]
    assert took < 0.5
    assert "cannot be reached" in error.what


def _decorated() -> MCPServer:
    mcp = MCPServer("early")

    @mcp.tool()
    @persisted
    def chat(prompt: str) -> str:
        return prompt.upper()

    return mcp


def _installed() -> MCPServer:
    mcp = MCPServer("early")

    @mcp.tool()
    def chat(prompt: str) -> str:
        return prompt.upper()

    install(mcp, tools=["chat"])
    return mcp


@pytest.mark.parametrize("make", [_decorated, _installed], ids=["decorated", "installed"])
async def test_a_server_that_is_made_while_the_database_is_away_answers_and_keeps_turns_once_it_is_there(
    make: Callable[[], MCPServer], cluster: PostgresCluster, activate: Activate
) -> None:
    name = cluster.create_database(make.__name__)
    migrations.apply(cluster.url(name), name, lambda _: None)
    cluster.stop()
    try:
        store = PostgresStore(cluster.url(name))
        runtime = activate(store)

        async def call(prompt: str) -> dict[str, Any]:
            return wire(await client.call_tool("chat", {"prompt": prompt, "continuation_id": "mine"}))

        async with Client(make()) as client:
            lost = await call("lost")
            assert lost["content"][0]["text"] == "LOST"
            assert lost["_meta"]["perdure/persisted"] is False
            assert lost["_meta"]["perdure/fault"] == "store_unavailable"
            assert lost["_meta"]["perdure/history"]["state"] == "unavailable"
            cluster.start()
            for number, prompt in enumerate(("one", "two")):
                meta = (await call(prompt))["_meta"]
                assert meta["perdure/persisted"] is True
                assert "perdure/fault" not in meta
                assert meta["perdure/history"]["turns"] == number
        assert [turn.prompt for turn in kept(runtime)] == ["one", "two"]
        store.close()
    finally:
        cluster.restart()
