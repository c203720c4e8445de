"""What the walk-through types as `docker …`, done to processes of this machine; a command it does not know fails.

The server's container is a process, its own layer a temp directory, its volume a folder. It is told what
docker-compose.yml tells it, except for the address of the gateway.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Mapping
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Protocol, Self

from docker.compose_file import REPOSITORY, environment_of
from servers.unprivileged import free_port, wait_until

VOLUME = "perdure-example_server-data"
PERDURE = [sys.executable, "-c", "from perdure.cli import main; main()"]
COMMAND = """#!{python}
import os, sys
from multiprocessing.connection import Client
with Client({address!r}, "AF_UNIX") as other:
    other.send((sys.argv[1:], os.environ.get("USE_SUPABASE")))
    said, code = other.recv()
sys.stdout.write(said)
sys.exit(code)
"""
Answer = tuple[str, int]
"""What the command prints, and its exit code."""


class Gateway(Protocol):
    def start(self) -> object: ...
    def stop(self) -> None: ...


class StandInDocker:
    """As long as it is started, there is a command `docker` in `path`."""

    def __init__(self, gateway: Gateway, gateway_url: str, values: Mapping[str, str]) -> None:
        """`gateway` runs already. `values`: what would be in .env."""
        self.path = Path(tempfile.mkdtemp(prefix="perdure-docker-"))
        self.port = free_port()
        self.ended: list[int] = []
        """Process ids of the servers that were killed."""
        self._gateway = gateway
        self._gateway_url = gateway_url
        self._values = values
        self._layer = self.path / "layer"
        self._volume = self.path / "volume"
        self._log = self.path / "server.log"
        self._address = str(self.path / "socket")
        self._told: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: Listener | None = None
        self._serving = threading.Thread(target=self._serve)

    @property
    def log(self) -> str:
        """What every server so far wrote."""
        return self._log.read_text()

    def __enter__(self) -> Self:
        self._listener = Listener(self._address, "AF_UNIX")
        command = self.path / "docker"
        command.write_text(COMMAND.format(python=sys.executable, address=self._address))
        command.chmod(0o755)
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        with Client(self._address, "AF_UNIX") as last:
            last.send(None)
        self._serving.join(10)
        self._kill()
        shutil.rmtree(self.path)

    def _serve(self) -> None:
        assert self._listener is not None
        with self._listener:
            while True:
                with self._listener.accept() as asked:
                    if (what := asked.recv()) is None:
                        return
                    arguments, use_supabase = what
                    try:
                        asked.send(self._carry_out(arguments, use_supabase))
                    except Exception as error:
                        asked.send((f"the stand-in for docker failed: {error!r}\n", 1))

    def _carry_out(self, arguments: list[str], use_supabase: str | None) -> Answer:
        done = "", 0
        match arguments:
            case ["compose", "up", "--detach", "--wait", *options, "server"] if {*options} <= {
                "--force-recreate",
                "--no-deps",
            }:
                if "--no-deps" not in options:
                    self._gateway.start()  # as Compose starts what a service depends on
                if "--force-recreate" in options:
                    self._kill()
                    self._remove_layer()
                # A variable of the shell stands above .env.
                self._start({**self._values, **({"USE_SUPABASE": use_supabase} if use_supabase else {})})
            case ["compose", "kill", "server"]:
                self._kill()
            case ["compose", "rm", "--force", "server"] if self._process is None:
                self._remove_layer()
            case ["volume", "rm", name] if name == VOLUME and not self._layer.exists():
                shutil.rmtree(self._volume)
            case ["compose", "stop", "gateway"]:
                self._gateway.stop()
            case ["compose", "start", "gateway"]:
                self._gateway.start()
            case ["compose", "exec", "server", "perdure", *rest] if self._process is not None:
                return self._perdure(rest)
            case _:
                return f"the stand-in for docker does not know: docker {' '.join(arguments)}\n", 125
        return done

    def _start(self, values: Mapping[str, str]) -> None:
        if self._process is not None:
            return
        self._layer.mkdir(exist_ok=True)
        self._volume.mkdir(exist_ok=True)
        told = environment_of("server", values)
        assert told["SUPABASE_URL"] == "http://gateway:8000"
        self._told = {
            "PATH": os.environ["PATH"],
            "PERDURE_CONFIG": os.devnull,
            "PERDURE_DATA_DIR": str(self._volume),
            "PERDURE_OPERATION_TIMEOUT": "30",  # this machine may be busy
            "TMPDIR": str(self._layer),
            **told,
            "SUPABASE_URL": self._gateway_url,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, REPOSITORY / "examples" / "http_server.py", "--port", str(self.port)],
                env=self._told,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_healthy, "the server did not become healthy")

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.ended.append(self._process.pid)
            self._process = None

    def _remove_layer(self) -> None:
        if self._layer.exists():
            shutil.rmtree(self._layer)

    def _perdure(self, arguments: list[str]) -> Answer:
        ended = subprocess.run(
            [*PERDURE, *arguments], env=self._told, capture_output=True, text=True, check=False, timeout=60
        )
        return ended.stdout + ended.stderr, ended.returncode
