"""A client of `CuttingProxy` loses the replies that it shall lose; the server has always done what it was asked."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from servers.cutting_proxy import CuttingProxy
from servers.postgres_cluster import PostgresCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: PostgresCluster) -> Iterator[str]:
    yield cluster.create_database("proof")
    cluster.drop_database("proof")


@pytest.fixture
def proxy(cluster: PostgresCluster) -> Iterator[CuttingProxy]:
    with CuttingProxy(cluster.port) as proxy:
        yield proxy


def test_a_cut_commit_took_place_though_its_client_saw_an_error(
    cluster: PostgresCluster, proxy: CuttingProxy, database: str
) -> None:
    cluster.execute("CREATE TABLE kept (n int)", database=database)
    proxy.cut_next("COMMIT")
    with psycopg.connect(proxy.url(cluster.url(database))) as client:
        client.execute("INSERT INTO kept VALUES (%s)", [1])
        assert client.execute("SELECT n FROM kept").fetchall() == [(1,)]
        with pytest.raises(psycopg.OperationalError):
            client.commit()
        assert client.broken
    assert cluster.execute("SELECT n FROM kept", database=database) == [(1,)]
    assert proxy.cuts == 1


def test_chance_cuts_replies_but_never_the_start_and_every_query_took_place(
    cluster: PostgresCluster, database: str
) -> None:
    cluster.execute("CREATE TABLE kept (n int)", database=database)

    def cut_at() -> list[int]:
        lost = []
        with CuttingProxy(cluster.port, cut_probability=0.2, seed=7) as proxy:
            for n in range(60):
                with psycopg.connect(proxy.url(cluster.url(database)), autocommit=True) as client:
                    try:
                        client.execute("INSERT INTO kept VALUES (%s)", [n])
                    except psycopg.OperationalError:
                        lost.append(n)
            assert proxy.cuts == len(lost)
            assert proxy.replies == 60
        return lost

    first = cut_at()
    assert 3 < len(first) < 25
    assert cut_at() == first
    assert cluster.execute("SELECT count(*) FROM kept", database=database) == [(120,)]


def test_replies_of_any_size_and_copies_come_through_whole(
    cluster: PostgresCluster, proxy: CuttingProxy, database: str
) -> None:
    with psycopg.connect(proxy.url(cluster.url(database)), autocommit=True) as client:
        wide = client.execute("SELECT repeat('x', 3000000)").fetchone()[0]
        assert len(wide) == 3_000_000
        assert len(client.execute("SELECT generate_series(1, 20000)").fetchall()) == 20_000
        client.execute("CREATE TABLE copied (n int)")
        with client.cursor().copy("COPY copied FROM STDIN") as copy:
            for n in range(1000):
                copy.write_row((n,))
        with client.pipeline():
            counted = client.execute("SELECT count(*) FROM copied")
            assert counted.fetchone() == (1000,)
    assert proxy.replies == 5


def test_sixty_four_clients_at_once_lose_only_replies(cluster: PostgresCluster, database: str) -> None:
    cluster.execute("CREATE TABLE kept (n int PRIMARY KEY)", database=database)
    all_connected = threading.Barrier(64)

    def insert_ten(start: int) -> int:
        url = proxy.url(cluster.url(database))
        # Preparing a statement is a query with a reply of its own: cut there, the INSERT would never have been sent.
        client = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        all_connected.wait(30)
        lost = 0
        for n in range(start, start + 10):
            try:
                client.execute("INSERT INTO kept VALUES (%s)", [n])
            except psycopg.OperationalError:
                lost += 1
                client = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        client.close()
        return lost

    with CuttingProxy(cluster.port, cut_probability=0.05) as proxy, ThreadPoolExecutor(64) as threads:
        lost = sum(threads.map(insert_ten, range(0, 640, 10)))
        assert lost == proxy.cuts > 0
        assert proxy.replies == 640
    assert cluster.execute("SELECT count(*) FROM kept", database=database) == [(640,)]


def test_a_hung_proxy_answers_nothing_until_it_is_released(
    cluster: PostgresCluster, proxy: CuttingProxy, database: str
) -> None:
    with psycopg.connect(proxy.url(cluster.url(database)), autocommit=True) as client:
        proxy.hang()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(proxy.url(cluster.url(database)), connect_timeout=2)
        with ThreadPoolExecutor(1) as elsewhere:
            answer = elsewhere.submit(lambda: client.execute("SELECT 1").fetchone())
            with pytest.raises(TimeoutError):
                answer.result(0.2)
            proxy.release()
            assert answer.result(10) == (1,)


def test_all_connections_are_cut_at_once_on_order(cluster: PostgresCluster, proxy: CuttingProxy) -> None:
    clients = [psycopg.connect(proxy.url(cluster.url())) for _ in range(5)]
    proxy.cut_all()
    for client in clients:
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    with psycopg.connect(proxy.url(cluster.url())) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)
