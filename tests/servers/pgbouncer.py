"""A PgBouncer that shares few Postgres backends among many clients, as the pooler before a hosted database does."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import Ground, LocalServer, ServerFailed, ServerMissing, free_port, start, wait_until

FETCHED = Path(sys.prefix) / "pgbouncer"
"""Where fetch_pgbouncer.sh unpacks Debian's package."""


class PgBouncer(LocalServer):
    """PgBouncer on 127.0.0.1 before every database of `cluster`, which must be running."""

    def __init__(
        self,
        cluster: PostgresCluster,
        *,
        pool_mode: str = "transaction",
        pool_size: int = 3,
        max_client_connections: int = 200,
        users: Mapping[str, str] | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        """
        Args:
            pool_size: Backends for each pair of database and user.
            users: Passwords of roles besides `postgres`; a role that is missing here is refused.
            settings: Of the section [pgbouncer]; they win over what stands below.
        """
        program = _fetched_or_installed()
        self.port = 0
        self._cluster = cluster
        self._ground = Ground("pgbouncer")
        self._users = {"postgres": cluster.password, **(users or {})}
        self._settings: dict[str, str | int] = {
            "pool_mode": pool_mode,
            "default_pool_size": pool_size,
            "max_client_conn": max_client_connections,
            "admin_users": "postgres",
            "auth_type": "scram-sha-256",
            "auth_file": self._ground.path / "users.txt",
            "listen_addr": "127.0.0.1",
            "unix_socket_dir": "",
            "ignore_startup_parameters": "extra_float_digits",
            **(settings or {}),
        }
        self._binary, self._environment = _within_reach(program, self._ground)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it wrote, for diagnosis; gone after `close`."""
        return self._ground.path / "pgbouncer.log"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed("pgbouncer is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start on a free port.

        Raises:
            ServerFailed: It did not come up; the message holds the log.
        """
        self._ground.write("users.txt", "".join(f'"{name}" "{word}"\n' for name, word in self._users.items()))
        for _ in range(5):
            self.port = free_port()
            if self._launched():
                return self
        raise ServerFailed(f"pgbouncer did not start, five times; its log: {self.log.read_text()}")

    def close(self) -> None:
        """End it at once (its clients are cut off), and remove its folder."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
        self._ground.close()

    def url(
        self, database: str = "postgres", *, user: str = "postgres", password: str | None = None, **query: str
    ) -> str:
        """As the cluster's own, through the pooler."""
        direct = self._cluster.url(database, user=user, password=password, **query)
        return direct.replace(f"@127.0.0.1:{self._cluster.port}/", f"@127.0.0.1:{self.port}/")

    def show(self, what: str) -> list[dict[str, Any]]:
        """A table of the admin console: "pools", "servers", "clients", "stats"."""
        conninfo = make_conninfo(self.url("pgbouncer"), connect_timeout=5)
        with psycopg.connect(conninfo, autocommit=True, row_factory=dict_row) as console:
            return console.execute(f"SHOW {what}").fetchall()

    def _launched(self) -> bool:
        settings = "".join(
            f"{name} = {value}\n" for name, value in {**self._settings, "listen_port": self.port}.items()
        )
        databases = f"* = host=127.0.0.1 port={self._cluster.port}"
        ini = self._ground.write("pgbouncer.ini", f"[databases]\n{databases}\n[pgbouncer]\n{settings}")
        self.log.unlink(missing_ok=True)
        process = start([self._binary, ini], log=self.log, on_death="TERM", environment=self._environment)
        wait_until(lambda: process.poll() is not None or "process up:" in self.log.read_text(), "pgbouncer hangs")
        if process.poll() is not None:
            return False
        self._process = process
        return True


def _fetched_or_installed() -> Path:
    fetched = FETCHED / "usr/sbin/pgbouncer"
    if fetched.exists():
        return fetched
    installed = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if installed is None:
        raise ServerMissing(f"no pgbouncer on this machine: tests/servers/fetch_pgbouncer.sh {FETCHED}")
    return Path(installed)


def _within_reach(program: Path, ground: Ground) -> tuple[Path, dict[str, str]]:
    """The program where the servant can run it, and the environment in which it finds its libraries."""
    if not program.is_relative_to(FETCHED):
        return program, {}
    root = ground.within_reach(FETCHED)
    libraries = ":".join(map(str, root.glob("usr/lib/*-linux-gnu*")))
    return root / program.relative_to(FETCHED), {"LD_LIBRARY_PATH": libraries}
