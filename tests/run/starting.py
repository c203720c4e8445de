"""Starts somebody's servers, bare and under `perdure run`, and talks to them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

__all__ = ["PERDURE", "PYTHON", "RUN", "SERVER", "Ended", "ended", "named", "over_http", "over_stdio", "wire_of"]

PYTHON = sys.executable
PERDURE = [str(Path(sys.executable).with_name("perdure"))]
RUN = [*PERDURE, "run"]

SERVER = '''
"""A server that knows nothing of perdure."""
import socket
import sys
from mcp.server.mcpserver import MCPServer

mcp = MCPServer("theirs", log_level="CRITICAL")


@mcp.tool()
async def chat(prompt: str) -> str:
    """Talks."""
    if prompt.endswith("fail"):
        raise RuntimeError("broken")
    return "heard " + prompt


@mcp.tool()
def add(a: int, b: int = 1) -> dict[str, int]:
    return {"sum": a + b}


def main():
    if sys.argv[1:2] != ["--http"]:
        mcp.run()
        return
    import uvicorn
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # whoever comes before uvicorn is ready waits
    with open(sys.argv[2], "w") as file:
        file.write(f"{listening.getsockname()[1]}\\n")
    config = uvicorn.Config(mcp.streamable_http_app(), log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
'''

_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a program left behind."""

    code: int
    stdout: str
    stderr: str


def ended(command: Sequence[str | Path], *, stdin: str = "", cwd: Path | None = None, **environment: str) -> Ended:
    done = subprocess.run(
        list(map(str, command)),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )
    return Ended(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def named(*tools: str) -> None:
    """Write the settings by which an operator switches these tools on."""
    Path(os.environ["PERDURE_CONFIG"]).write_text("".join(f"[tools.{tool}]\nenabled = true\n" for tool in tools))


def wire_of(
    command: Sequence[str | Path], requests: Sequence[tuple[str, dict[str, Any]]], *, cwd: Path, **environment: str
) -> tuple[list[str], str]:
    """The lines that a stdio server answers with, one request after the other; and its stderr."""
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environment},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = []
    try:
        for number, (method, params) in enumerate(requests):
            message = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": _META}}
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            lines.append(process.stdout.readline())
        rest, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return [*lines, rest], stderr


@asynccontextmanager
async def over_stdio(
    command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Client]:
    first, *rest = map(str, command)
    parameters = StdioServerParameters(command=first, args=rest, cwd=cwd, env={**os.environ, **(env or {})})
    async with Client(parameters) as client:
        yield client


@contextmanager
def over_http(command: Sequence[str | Path], *, cwd: Path) -> Iterator[str]:
    """The address of a server that is started with `--http FILE`."""
    port_file = cwd / "port"
    port_file.unlink(missing_ok=True)
    process = subprocess.Popen([*map(str, command), "--http", str(port_file)], cwd=cwd)
    try:
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().endswith("\n")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port_file.read_text().strip()}/mcp"
    finally:
        process.kill()
        process.wait()
