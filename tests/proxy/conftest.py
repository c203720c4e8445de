"""Clients of raw lines: what they see is what is on the wire."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Activate
from mcp_wire import kept

from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.turn import Turn
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.proxy import child
from perdure.middleware.proxy.session import serve
from perdure.middleware.proxy.upstream import Upstream
from perdure.settings import ToolSettings
from perdure.settings_loader import load_settings

RAW_SERVER = [sys.executable, "-I", "-S", str(Path(__file__).with_name("raw_server.py"))]

STATELESS = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}

Json = dict[str, Any]

PATIENCE = 30.0
"""Seconds after which a test that waits for a line has failed."""


class RawClient:
    """Speaks lines to a server or a proxy, and sees every line that comes."""

    def __init__(self, reader: asyncio.StreamReader, writing: int) -> None:
        self.lines: list[bytes] = []
        self.exit_code: int | None = None
        self._reader = reader
        self._writing = writing
        self._number = 1000

    def send_line(self, line: bytes | str) -> None:
        data = (line.encode() if isinstance(line, str) else line) + b"\n"
        while data:
            data = data[os.write(self._writing, data) :]

    async def send_large(self, line: bytes) -> None:
        await asyncio.to_thread(self.send_line, line)

    def send(self, method: str, params: Json | None = None, **more: Any) -> None:
        message = {"jsonrpc": "2.0", **more, "method": method}
        self.send_line(json.dumps(message if params is None else {**message, "params": params}))

    def request(self, method: str, params: Json | None = None) -> int:
        self._number += 1
        self.send(method, params, id=self._number)
        return self._number

    async def line(self) -> bytes:
        """The next line; empty when there is none any more."""
        line = await asyncio.wait_for(self._reader.readline(), PATIENCE)
        if line:
            self.lines.append(line.rstrip(b"\n"))
        return line.rstrip(b"\n")

    async def answer(self, number: Any) -> Json:
        """The answer to that request; whatever comes before it is in `lines`."""
        while line := await self.line():
            message = json.loads(line)
            if isinstance(message, dict) and message.get("id") == number and "method" not in message:
                answer: Json = message
                return answer
        raise AssertionError(f"the connection ended without an answer to {number!r}")

    async def ask(self, method: str, params: Json | None = None) -> Json:
        return await self.answer(self.request(method, params))

    async def call(self, tool: str, arguments: Json | None = None, **params: Any) -> Json:
        return await self.ask("tools/call", {"name": tool, "arguments": arguments or {}, **params})

    async def rest(self) -> list[bytes]:
        """Everything until the end."""
        while await self.line():
            pass
        return self.lines

    def close(self) -> None:
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1


Proxied = Callable[..., AbstractAsyncContextManager[RawClient]]


@asynccontextmanager
async def proxied(start: Callable[[], Upstream]) -> AsyncIterator[RawClient]:
    """A client of a proxy that runs in this process, with the store of the test. `exit_code` is known afterwards."""
    to_proxy_read, to_proxy = os.pipe()
    from_proxy, from_proxy_write = os.pipe()
    reader = asyncio.StreamReader(limit=2**28)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(from_proxy, "rb", buffering=0)
    )
    client = RawClient(reader, to_proxy)
    session = asyncio.create_task(serve(start, to_proxy_read, from_proxy_write))
    try:
        yield client
        client.close()
        client.exit_code = await asyncio.wait_for(session, PATIENCE)
    finally:
        client.close()
        session.cancel()
        await asyncio.wait([session])
        transport.close()
        os.close(to_proxy_read)


def running(mark: str) -> list[psutil.Process]:
    """The processes that have `mark` among their arguments."""
    return [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])]


def left(mark: str) -> list[psutil.Process]:
    """The same, but for those that are about to die: what was killed needs a moment of the processor for that."""
    _, alive = psutil.wait_procs(running(mark), timeout=10)
    return alive


def behind(command: list[str] = RAW_SERVER) -> AbstractAsyncContextManager[RawClient]:
    return proxied(partial(child.started, command))


@pytest.fixture
def all_kept(activate: Activate) -> Runtime:
    """Every tool is persisted, in memory."""
    return activate(defaults=ToolSettings(enabled=True))


class ProxyProcess:
    """`perdure proxy` as a user's client starts it, with a store in `folder`; a client of raw lines beside it."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._stderr = folder / "stderr"
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("perdure"), "proxy", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PERDURE_DEFAULTS__ENABLED": "true", **environment},
            )
        self._number = 1000

    def __enter__(self) -> "ProxyProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()  # type: ignore[union-attr]

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def send(self, method: str, params: Json | None = None) -> int:
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params or {}}
        self.process.stdin.write(json.dumps(message).encode() + b"\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self._number

    def line(self) -> Json:
        message: Json = json.loads(self.process.stdout.readline())  # type: ignore[union-attr]
        return message

    def call(self, tool: str, arguments: Json | None = None, meta: Json | None = None) -> Json:
        params = {"name": tool, "arguments": arguments or {}}
        number = self.send("tools/call", params | ({"_meta": meta} if meta else {}))
        while (message := self.line()).get("id") != number:
            pass
        return message

    def wait_for(self, words: str) -> None:
        """Until they stand in stderr."""
        until = time.monotonic() + PATIENCE
        while words not in self.stderr:
            assert time.monotonic() < until, self.stderr
            time.sleep(0.01)


def turns_in_store() -> list[Turn]:
    """Of the store that processes of this test write to."""
    runtime = wiring.build(load_settings())
    try:
        return kept(runtime)
    finally:
        runtime.engine.store.close()
