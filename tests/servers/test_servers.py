"""The servers that tests stand on do what those tests take for granted."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
from servers.pgbouncer import PgBouncer
from servers.postgres_cluster import DEBIAN_BINARIES, PostgresCluster
from servers.supabase_cli import PushFailed, SupabaseCli
from servers.unprivileged import AS_ROOT, PREFIX, SERVANT, Ground, wait_until

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    with PostgresCluster() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: PostgresCluster) -> Iterator[str]:
    yield cluster.create_database("proof")
    cluster.drop_database("proof")


@pytest.fixture
def bouncer(cluster: PostgresCluster) -> Iterator[PgBouncer]:
    with PgBouncer(cluster, pool_size=3) as bouncer:
        yield bouncer


@pytest.mark.parametrize(
    "build",
    [
        {"version": 16},
        {"version": 18},
        pytest.param(
            {"binaries": DEBIAN_BINARIES},
            marks=pytest.mark.skipif(not DEBIAN_BINARIES.exists(), reason="postgresql-15 is not on this machine"),
        ),
    ],
    ids=["16", "18", "debian"],
)
def test_what_is_committed_survives_kill_9_and_the_rest_does_not(build: dict) -> None:
    with PostgresCluster(**build) as cluster:
        port = cluster.port
        cluster.execute("CREATE TABLE kept (n int)")
        with psycopg.connect(cluster.url()) as open_transaction:
            open_transaction.execute("INSERT INTO kept VALUES (2)")
            cluster.execute("INSERT INTO kept VALUES (1)")
            cluster.kill()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(cluster.url(), connect_timeout=1)
            cluster.start()
            with pytest.raises(psycopg.OperationalError):
                open_transaction.execute("SELECT 1")
        assert cluster.execute("SELECT n FROM kept") == [(1,)]
        assert cluster.port == port
        assert "automatic recovery in progress" in cluster.log.read_text()


def test_a_cluster_has_the_settings_that_were_asked_for_and_is_durable(cluster: PostgresCluster) -> None:
    with PostgresCluster(max_connections=17, settings={"work_mem": "3MB", "log_statement": "all"}) as own:
        assert own.execute("SHOW max_connections") == [("17",)]
        assert own.execute("SHOW work_mem") == [("3MB",)]
        own.execute("SELECT 'seen'")
        assert "SELECT 'seen'" in own.log.read_text()
        assert own.port != cluster.port
    assert cluster.execute("SHOW fsync") == [("on",)]


def test_only_the_password_opens_it(cluster: PostgresCluster) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(cluster.url(password="wrong"))


def test_two_databases_from_one_template_are_apart_and_go_away_with_clients_on_them(cluster: PostgresCluster) -> None:
    cluster.execute("CREATE ROLE keeper LOGIN PASSWORD 'secret'")
    cluster.create_database("mould")
    cluster.execute("CREATE TABLE cast_in (n int); INSERT INTO cast_in VALUES (1)", database="mould")
    one, two = (cluster.create_database(name, template="mould", owner="keeper") for name in ("one", "two"))
    cluster.execute("INSERT INTO cast_in VALUES (2)", database=one)
    assert cluster.execute("SELECT n FROM cast_in ORDER BY n", database=one) == [(1,), (2,)]
    assert cluster.execute("SELECT n FROM cast_in ORDER BY n", database=two) == [(1,)]
    owner = psycopg.connect(cluster.url(one, user="keeper", password="secret"))
    owner.execute("CREATE SCHEMA mine")
    for name in (one, two, "mould"):
        cluster.drop_database(name)
    with pytest.raises(psycopg.errors.AdminShutdown):
        owner.execute("SELECT 1")
    assert cluster.execute("SELECT datname FROM pg_database WHERE datname IN ('one', 'two', 'mould')") == []
    cluster.execute("DROP ROLE keeper")


def test_no_server_outlives_a_process_that_is_killed_and_its_folder_is_cleared_by_the_next() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from servers.postgres_cluster import PostgresCluster\n"
        "from servers.pgbouncer import PgBouncer\n"
        "import threading\n"
        "cluster = PostgresCluster()\n"
        "starter = threading.Thread(target=cluster.start); starter.start(); starter.join()\n"
        "bouncer = PgBouncer(cluster).start()\n"
        "cluster.execute('SELECT 1')\n"
        "print(cluster.pid, bouncer.pid, cluster.log.parent, bouncer.log.parent, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        *pids, cluster_folder, bouncer_folder = owner.stdout.readline().decode().split()
        servers = [psutil.Process(int(pid)) for pid in pids]
        servers += servers[0].children()
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(_lives, servers)), "a server outlived its owner", seconds=10)
    abandoned = [Path(cluster_folder), Path(bouncer_folder)]
    assert all(folder.name.startswith(PREFIX) and folder.exists() for folder in abandoned)
    for folder in abandoned:
        os.utime(folder, (0, 0))
    Ground("next").close()
    assert not any(folder.exists() for folder in abandoned)


def test_the_folder_of_a_server_that_lives_is_never_cleared(cluster: PostgresCluster) -> None:
    os.utime(cluster.log.parent, (0, 0))
    Ground("next").close()
    assert cluster.execute("SELECT 1") == [(1,)]


@pytest.mark.skipif(not AS_ROOT, reason="whoever is not root runs servers as itself")
def test_programs_in_a_folder_that_is_closed_to_others_are_brought_within_reach(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    (closed / "program").write_text("#!/bin/sh\nexit 0\n")
    (closed / "program").chmod(0o700)
    ground = Ground("reach")
    try:
        lent = ground.within_reach(closed) / "program"
        as_servant = ["setpriv", f"--reuid={SERVANT}", "--clear-groups", "--"]
        assert subprocess.run([*as_servant, closed / "program"], check=False, stderr=subprocess.DEVNULL).returncode
        assert subprocess.run([*as_servant, lent], check=False).returncode == 0
    finally:
        ground.close()


def test_pgbouncer_shares_three_backends_among_ten_clients(bouncer: PgBouncer, database: str) -> None:
    at_once = threading.Barrier(10)

    def backends() -> set[int]:
        with psycopg.connect(bouncer.url(database), autocommit=True, prepare_threshold=None) as client:
            at_once.wait(10)
            return {client.execute("SELECT pg_backend_pid(), pg_sleep(0.002)").fetchone()[0] for _ in range(20)}

    with ThreadPoolExecutor(10) as clients:
        seen = [future.result() for future in [clients.submit(backends) for _ in range(10)]]
    assert len(set.union(*seen)) == 3
    assert any(len(of_one_client) > 1 for of_one_client in seen)
    assert [pool["pool_mode"] for pool in bouncer.show("pools") if pool["database"] == database] == ["transaction"]


def test_the_pid_that_a_client_is_told_is_the_backend_only_on_a_direct_connection(
    cluster: PostgresCluster, bouncer: PgBouncer, database: str
) -> None:
    asked = "SELECT pg_backend_pid()"
    with psycopg.connect(cluster.url(database)) as direct:
        assert direct.info.backend_pid == direct.execute(asked).fetchone()[0]
    with psycopg.connect(bouncer.url(database)) as pooled:
        assert pooled.info.backend_pid != pooled.execute(asked).fetchone()[0]


def test_the_supabase_cli_pushes_two_files_once(cluster: PostgresCluster, database: str, tmp_path: Path) -> None:
    cli = SupabaseCli(tmp_path)
    one_statement = "20250101000000_one.sql"
    several = "20250102000000_several.sql"
    (cli.migrations / one_statement).write_text("DO $$ BEGIN CREATE TABLE a (n int); INSERT INTO a VALUES (1); END $$;")
    (cli.migrations / several).write_text("CREATE TABLE b (n int);\nINSERT INTO b VALUES (1);\nINSERT INTO b SELECT 2;")
    url = cluster.url(database, sslmode="disable")
    assert cli.push(url) == [one_statement, several]
    assert cli.push(url) == []
    assert cluster.execute("SELECT n FROM a UNION ALL SELECT n FROM b", database=database) == [(1,), (1,), (2,)]


def test_a_pushed_file_that_fails_leaves_nothing_and_says_why(
    cluster: PostgresCluster, database: str, tmp_path: Path
) -> None:
    cli = SupabaseCli(tmp_path)
    (cli.migrations / "20250101000000_broken.sql").write_text("CREATE TABLE half (); SELECT 1/0;")
    with pytest.raises(PushFailed, match="division by zero"):
        cli.push(cluster.url(database, sslmode="disable"))
    assert cluster.execute("SELECT to_regclass('half')", database=database) == [(None,)]


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
