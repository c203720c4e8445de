"""What `perdure proxy` adds to a call, as a client on stdio sees it, beside the same server without it."""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.content import answer_to, prompt_of
from benchmarks.harness import Candidate, Comparison, Goal, Result, interleaved

__all__ = ["run"]

_CALLS = 60
"""In one round, for each candidate."""

_SERVER = """
from mcp.server.mcpserver import MCPServer

from benchmarks.content import answer_to

server = MCPServer("benchmark", log_level="ERROR")

@server.tool()
async def chat(prompt: str) -> str:
    "Talk with a model that answers at once."
    return answer_to(prompt)

server.run()
"""

_HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


def run(rounds: int, folder: Path) -> list[Result]:
    server = [sys.executable, "-c", _SERVER]
    proxy = [str(Path(sys.executable).with_name("perdure")), "proxy", "--", *server]
    named = {"PERDURE_DEFAULTS__ENABLED": "true"}
    with ExitStack() as stack:

        def started(command: list[str], **environment: str) -> "_Client":
            return stack.enter_context(_Client(command, {"PERDURE_DATA_DIR": str(folder / "proxy")} | environment))

        clients = {
            "the server alone": started(server),
            "proxy, tool not named": started(proxy, PERDURE_BACKEND="memory"),
            "proxy, in-memory store": started(proxy, PERDURE_BACKEND="memory", **named),
            "proxy, SQLite": started(proxy, **named),
        }
        comparison = Comparison(
            name="proxy",
            title="One call of a server on stdio, from a client's line to the answer's",
            unit="ms",
            candidates=[
                Candidate(
                    name=name,
                    measure=client.measure,
                    floor=None if name == "the server alone" else "the server alone",
                    goal=Goal(quantity="added", limit=1.2) if name == "proxy, in-memory store" else None,
                )
                for name, client in clients.items()
            ],
        )
        result = interleaved(comparison, rounds)
        kept = sum(client.kept for client in clients.values())
        asked = sum(client.asked for name, client in clients.items() if name.endswith(("store", "SQLite")))
    if kept != asked:
        raise AssertionError(f"{asked - kept} calls were not kept")
    return [replace(result, notes=[f"Verified: each of {asked:,} calls that shall be kept says that it is."])]


class _Client:
    """Speaks raw lines to a process."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.asked = 0
        self.kept = 0
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where perdure says that no tool is named
            env={**os.environ, **environment},
        )

    def __enter__(self) -> "_Client":
        self._ask("initialize", _HANDSHAKE)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def measure(self) -> float:
        """One round: the median time of a call, in milliseconds."""
        taken = []
        for _ in range(_CALLS):
            self.asked += 1
            prompt = prompt_of(self.asked)
            started = time.perf_counter()
            result = self._ask("tools/call", {"name": "chat", "arguments": {"prompt": prompt}})
            taken.append(time.perf_counter() - started)
            if result["content"][0]["text"] != answer_to(prompt):
                raise AssertionError(f"The tool did not answer what it was asked: {result}")
            self.kept += result.get("_meta", {}).get("perdure/persisted", False)
        return statistics.median(taken) * 1e3

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._send({"jsonrpc": "2.0", "id": self.asked, "method": method, "params": params})
        if self._process.stdout is None:
            raise AssertionError("a pipe was asked for")
        result: dict[str, Any] = json.loads(self._process.stdout.readline())["result"]
        return result

    def _send(self, message: dict[str, Any]) -> None:
        if self._process.stdin is None:
            raise AssertionError("a pipe was asked for")
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
