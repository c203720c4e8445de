"""Starts the program of a peer in its own environment, and asks it."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["NotInstalled", "PeerFailed", "PeerProcess", "peer_process"]

_ROOT = Path(__file__).parents[2]


class NotInstalled(Exception):
    """Its environment is not there: `make bench` makes all of them."""


class PeerFailed(Exception):
    """It could not do what it was asked for, and said why."""


class PeerProcess:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def open(self, where: str) -> None:
        self.ask("open", where=where)

    def plant(self, conversation: str, messages: int) -> None:
        self.ask("plant", conversation=conversation, messages=messages)

    def turns(self, conversation: str, count: int) -> float:
        """The median time of one, in milliseconds."""
        return float(self.ask("turns", conversation=conversation, count=count)) * 1000

    def at_once(self, conversations: list[str], turns: int) -> float:
        """Turns a second."""
        return float(self.ask("at_once", conversations=conversations, turns=turns))

    def failures(self) -> dict[str, int]:
        """Turns that were refused while many came at once, by what was said."""
        return dict(self.ask("failures"))

    def verify(self) -> int:
        """Acknowledged messages, all of which are there.

        Raises:
            PeerFailed: Some are not.
        """
        return int(self.ask("verify"))

    def close(self) -> None:
        self.ask("close")

    def ask(self, do: str, **arguments: Any) -> Any:
        """What its method `do` returns.

        Raises:
            PeerFailed: It raised, or the program ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerFailed(f"it ended with the code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer["found"]


@contextmanager
def peer_process(environment: str, module: str, *arguments: str) -> Iterator[PeerProcess]:
    """`environment` as it is called in `.venv/peers`, `module` as in this folder.

    Raises:
        NotInstalled: There is no such environment.
    """
    python = _ROOT / ".venv" / "peers" / environment / "bin" / "python"
    if not python.is_file() or not python.parents[2].joinpath(f"{environment}.stamp").is_file():
        raise NotInstalled(f"{environment} is not installed: run `make .venv/peers/{environment}.stamp`")
    log = subprocess.DEVNULL if os.environ.get("PERDURE_BENCH_QUIET_PEERS", "1") == "1" else None
    process = subprocess.Popen(
        [python, "-m", f"benchmarks.peers.{module}", *arguments],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield PeerProcess(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
