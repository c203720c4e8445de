"""docker/Caddyfile, served by a real Caddy, with what it looks for in containers on this machine's ports."""

import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Self

from docker.compose_file import REPOSITORY
from servers.unprivileged import Ground, LocalServer, free_port, start, wait_until

FETCHED = Path(sys.prefix) / "caddy" / "usr" / "bin" / "caddy"
"""Where fetch_caddy.sh unpacks Debian's package."""
CADDYFILE = REPOSITORY / "docker" / "Caddyfile"


class Caddy(LocalServer):
    """Listens on 127.0.0.1:`port`."""

    def __init__(self, *, rest: str, storage: str, beside: str = "") -> None:
        """`rest` and `storage`: host and port of what stands for the containers. `beside`: more sites, for the test."""
        self.port = free_port()
        self._ground = Ground("caddy")
        text = CADDYFILE.read_text()
        for named, here in (("rest:3000", rest), ("storage:5000", storage)):
            assert text.count(named) == 1
            text = text.replace(named, here)
        assert text.count(":8000 {") == 1
        text = text.replace(":8000 {", f":{self.port} {{\n\tbind 127.0.0.1")
        self._config = self._ground.write("Caddyfile", text + beside)
        self._program = self._ground.within_reach(FETCHED.parent) / FETCHED.name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Does nothing if it runs."""
        if self._process is not None:
            return self
        command = [self._program, "run", "--config", self._config, "--adapter", "caddyfile"]
        log = self._ground.path / "caddy.log"
        folder = str(self._ground.path)
        self._process = start(
            command,
            log=log,
            on_death="KILL",
            environment={"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder},
        )
        wait_until(self._answers, "caddy did not start")
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        self.stop()
        self._ground.close()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False
