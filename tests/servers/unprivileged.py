"""Servers that refuse root run as `nobody`, on ground of their own, and none outlives the process that started it."""

import contextlib
import fcntl
import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

AS_ROOT = os.geteuid() == 0
SERVANT = "nobody"
PREFIX = "perdure-server-"

# PR_SET_PDEATHSIG fires when the *thread* that forked ends, so all servers are started from one that stays.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-starter")


class ServerFailed(Exception):
    """A server did not start, stop or answer; the message ends with what its log says."""


class ServerMissing(Exception):
    """The program is not on this machine; the message says how it is brought."""


class LocalServer(ABC):
    """Runs within a `with`: a start that fails leaves nothing behind."""

    @abstractmethod
    def start(self) -> Self: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()


class Ground:
    """A folder that the servant owns and that goes away with `close`, or, after a hard end, with the next `Ground`."""

    def __init__(self, name: str) -> None:
        _clear_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=_reachable_parent()))
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if AS_ROOT:
            shutil.chown(self.path, SERVANT)

    def write(self, name: str, text: str) -> Path:
        """A file that only the servant reads."""
        path = self.path / name
        path.touch(0o600)
        path.write_text(text)
        if AS_ROOT:
            shutil.chown(path, SERVANT)
        return path

    def within_reach(self, folder: Path, *, under: str = "") -> Path:
        """`folder` itself if the servant can enter it, else a copy (a checkout below /root, which is 0700).

        Args:
            under: The name of a folder that shall hold the copy, for programs that look beside themselves.
        """
        if not AS_ROOT or _is_reachable(folder):
            return folder
        copy = self.path / under / folder.name
        shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("*.a", "include", "__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", self.path / under if under else copy], check=True)
        return copy

    def close(self) -> None:
        shutil.rmtree(self.path)
        os.close(self._lock)


def start(
    command: Sequence[str | Path], *, log: Path, on_death: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server as the servant; its output is appended to `log`.

    Args:
        on_death: The signal that the server gets when this process dies, however hard: "QUIT", "TERM" (Linux only).
    """
    with log.open("ab") as output:
        return _STARTER.submit(
            subprocess.Popen,
            [*_as_servant(on_death), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(environment),
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal is for pytest, which then stops its servers in order
        ).result()


def run(command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None) -> None:
    """Run a short program to its end as the servant.

    Raises:
        ServerFailed: It ended with another status than 0.
    """
    ended = subprocess.run(
        [*_as_servant("KILL"), *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(environment),
        cwd="/",
        text=True,
        check=False,
    )
    if ended.returncode:
        raise ServerFailed(f"{Path(command[0]).name} ended with status {ended.returncode}: {ended.stdout}")


def wait_until(reached: Callable[[], bool], otherwise: str, *, seconds: float = 30.0) -> None:
    """Look every 5 milliseconds.

    Raises:
        ServerFailed: With `otherwise`, when the seconds are over.
    """
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise ServerFailed(f"{otherwise}, after {seconds:g} s")
        time.sleep(0.005)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now.

    It lies below the ephemeral range (32768 and up on Linux): the kernel gives it to no outgoing connection while its
    server is down, so a server can come back on it.
    """
    while True:
        port = random.randint(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def _as_servant(on_death: str) -> list[str]:
    if not sys.platform.startswith("linux"):
        if AS_ROOT:
            raise ServerMissing("as root, servers for tests run on Linux only: they need setpriv (util-linux)")
        return []
    # setpriv becomes the server by exec: its pid is the server's.
    drop = [f"--reuid={SERVANT}", f"--regid={pwd.getpwnam(SERVANT).pw_gid}", "--clear-groups"] if AS_ROOT else []
    return ["setpriv", *drop, f"--pdeathsig={on_death}", "--"]


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # Nothing of PGPORT, PGOPTIONS or PGDATA in whoever's shell.
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC", **(extra or {})}


def _reachable_parent() -> Path:
    wanted = Path(tempfile.gettempdir())
    return wanted if not AS_ROOT or _is_reachable(wanted) else Path("/tmp")


def _is_reachable(folder: Path) -> bool:
    return all(place.stat().st_mode & 0o001 for place in (folder, *folder.parents))


def _clear_abandoned() -> None:
    for folder in _reachable_parent().glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another process clears it, or it is another user's
            if time.time() - folder.stat().st_mtime < 60:
                continue  # perhaps just made, and not locked yet
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
