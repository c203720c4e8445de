"""A stdio server over perdure for `every_boundary.py`, in a forked process: it starts in a moment."""

import atexit
import contextlib
import json
import os
import select
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer
from soak.boundaries import Boundaries

from perdure import History, install, persisted
from perdure.middleware import call_steps
from perdure.middleware.persistence import running_turns
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.spool import delivery, drainer
from perdure.middleware.persistence.wiring import runtime

__all__ = ["Silence", "StdioServer"]

Json = dict[str, Any]

_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Silence(Exception):
    """The server did not answer, or said what is no JSON-RPC."""


class StdioServer:
    """Started by a fork of this process, which must have no other thread."""

    def __init__(self, boundaries: Boundaries, environment: Mapping[str, str], folder: Path) -> None:
        self._folder = folder
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._to)
            os.close(self._from)
            _become_server(boundaries, environment, folder, theirs_in, theirs_out)
        os.close(theirs_in)
        os.close(theirs_out)
        self._said = b""
        self._number = 0

    def ask(self, method: str, params: Json, *, seconds: float = 60.0) -> Json:
        """The whole answer. Notifications are passed over.

        Raises:
            Silence: There is none within the time, or it is no JSON-RPC.
        """
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": {**params, "_meta": _META}}
        with contextlib.suppress(BrokenPipeError):
            os.write(self._to, (json.dumps(request) + "\n").encode())
        deadline = time.monotonic() + seconds
        while True:
            answer = self._message(deadline)
            if answer.get("id") == self._number:
                return answer

    def end(self, *, seconds: float = 30.0) -> Json:
        """Close its stdin, and say what it saw of boundaries.

        Raises:
            Silence: It does not end, or says something more that is no JSON-RPC.
        """
        os.close(self._to)
        try:
            deadline = time.monotonic() + seconds
            with contextlib.suppress(EOFError):
                while True:
                    self._message(deadline)
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    raise Silence("the server does not end")
                time.sleep(0.005)
            self._pid = 0
        finally:
            self.kill()
        seen = self._folder / "seen"
        if not seen.exists():
            raise Silence("the server ended badly")
        found: Json = json.loads(seen.read_text())
        seen.unlink()
        return found

    def kill(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, 9)
                os.waitpid(self._pid, 0)
            self._pid = 0
        with contextlib.suppress(OSError):
            os.close(self._from)

    def _message(self, deadline: float) -> Json:
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._from], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise Silence("the server does not answer")
            piece = os.read(self._from, 65536)
            if not piece:
                if self._said:
                    raise Silence(f"stdout ends with {self._said!r}")
                raise EOFError
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise Silence(f"stdout holds {line!r}") from error
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            raise Silence(f"stdout holds {line!r}")
        return message


def _become_server(
    boundaries: Boundaries, environment: Mapping[str, str], folder: Path, theirs_in: int, theirs_out: int
) -> None:
    status = 1
    try:
        os.dup2(theirs_in, 0)
        os.dup2(theirs_out, 1)
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        for name in [name for name in os.environ if name.startswith(("PERDURE_", "SUPABASE_"))]:
            del os.environ[name]
        os.environ.update(environment)
        tempfile.tempdir = str(folder)
        _hurry()
        server = _server(boundaries, folder)
        boundaries.watch()
        server.run()
        atexit._run_exitfuncs()
        sys.settrace(None)
        sys.setprofile(None)
        (folder / "seen").write_text(json.dumps(boundaries.seen()))
        status = 0
    except BaseException:
        sys.settrace(None)
        sys.setprofile(None)
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _hurry() -> None:
    """Shorter pauses: there are hundreds of runs."""
    pauses = Breaker.__init__.__kwdefaults__
    assert pauses is not None
    pauses |= {"first_pause": 0.05, "longest_pause": 0.2}
    call_steps._DISK_SECONDS = 0.5
    delivery._HOLD = drainer._SPOOL_UNUSABLE = drainer._LOOK_AGAIN = 0.1
    drainer._AT_EXIT = 0.3
    running_turns._LOOKS_IN_A_LEASE, running_turns._TOO_YOUNG = 50, 0.0


def _server(boundaries: Boundaries, folder: Path) -> MCPServer:
    server = MCPServer("boundaries", log_level="WARNING")
    out = folder / "out"
    out.mkdir(exist_ok=True)

    @server.tool()
    @persisted
    async def chat(prompt: str, history: History) -> str:
        return f"answered {prompt}"

    @server.tool()
    @persisted(history="none")
    def plain(prompt: str) -> dict[str, str]:
        return {"answer": prompt}

    @server.tool()
    @persisted(history="none")
    async def linger(prompt: str) -> str:
        await anyio.sleep(0.1)  # its lease is renewed meanwhile
        return prompt

    @server.tool()
    async def ask(prompt: str) -> str:
        return prompt.rpartition("\n")[2]  # what stands before it is the history

    @server.tool()
    @persisted
    async def write(name: str) -> str:
        path = out / name
        path.write_text(f"content of {name}")
        return str(path)

    @server.tool()
    @persisted
    def read(path: str) -> str:
        return Path(path).read_text()

    # What follows is not persisted: it is how the test orders things.

    @server.tool()
    def take_away(away: bool) -> str:
        boundaries.store_is_away = away
        return "done"

    @server.tool()
    def settle(seconds: float) -> str:
        """Until nothing waits any more."""
        with contextlib.suppress(Exception):
            spool = runtime().spool
            deadline = time.monotonic() + seconds
            while spool is not None and time.monotonic() < deadline:
                spool.flush(0.1)
                if not any(line.turns or line.files for line in spool.status()):
                    return "settled"
                time.sleep(0.02)
        return "not settled"

    @server.tool()
    def kept() -> str:
        """The ids of all turns that have ended, as they are kept; and of those in quarantine."""
        engine, spool = runtime().engine, runtime().spool
        found = [
            turn.id
            for line in engine.conversations(limit=1000)
            for turn in engine.turns(line.principal, line.continuation_id, limit=1000)
            if turn.outcome.value in ("answered", "failed")
        ]
        set_apart = [one.id for one in (spool.quarantine() if spool else [])]
        return json.dumps({"ended": found, "quarantined": set_apart})

    install(server, tools=["ask"])
    return server
