"""A server that is a process of ours: its stdin and stdout are the protocol's, its stderr is ours."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

import anyio
import anyio.to_thread

from perdure.logs import log
from perdure.middleware.proxy.json_rpc import Message, Unreadable, read
from perdure.middleware.proxy.pipes import LineReader, LineWriter
from perdure.middleware.proxy.upstream import Ended, Never, Receive, Upstream

__all__ = ["started"]

_AFTER_SIGTERM = 1.0
"""Seconds until SIGKILL. The mcp client kills us 2 s after it has asked us to end."""

_LONGEST_SHOWN = 500
"""Characters of a line that is no message."""


def started(command: Sequence[str]) -> Upstream:
    its_stdin, to_it = os.pipe()
    from_it, its_stdout = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - it is what we were told to run
            command,
            stdin=its_stdin,
            stdout=its_stdout,
            env=os.environ,
            start_new_session=True,  # so that it can be ended with all that it has started
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        os.close(to_it)
        os.close(from_it)
        reason = error.strerror if isinstance(error, OSError) else error
        return Never(
            Ended(
                what=f"The MCP server {command[0]!r} could not be started: {reason}.",
                remedy="check the command after `perdure proxy --`: it is looked for in PATH, and run without a shell.",
                exit_code=127 if isinstance(error, FileNotFoundError) else 126,
            )
        )
    finally:
        os.close(its_stdin)
        os.close(its_stdout)
    return Child(command[0], process, to_it, from_it)


class Child:
    def __init__(self, name: str, process: "subprocess.Popen[bytes]", to_it: int, from_it: int) -> None:
        self._name = name
        self._process = process
        self._stdin = LineWriter(to_it)
        self._stdout = LineReader(from_it)
        self._exited = anyio.Event()
        self._hears_nothing = anyio.Event()

    async def run(self, receive: Receive) -> Ended:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stdin.run)
                tasks.start_soon(self._watch)
                tasks.start_soon(self._end_when_it_hears_nothing)
                await self._receive_all(receive)
                # Without a stdout it can answer nothing any more.
                await self.end(patience=_AFTER_SIGTERM)
                tasks.cancel_scope.cancel()
            return self._ended()
        finally:
            if not self._exited.is_set():
                self._signal(signal.SIGKILL)
            self._stdout.close()

    async def send(self, message: Message) -> None:
        await self._stdin.write(message.raw)
        if self._stdin.broken:
            self._hears_nothing.set()

    async def _end_when_it_hears_nothing(self) -> None:
        """It has closed its stdin: what it was just asked it cannot know of."""
        await self._hears_nothing.wait()
        await self.end(patience=_AFTER_SIGTERM)

    async def end(self, *, patience: float) -> None:
        """Close its stdin, wait, SIGTERM, wait, SIGKILL (MCP specification, Lifecycle, Shutdown)."""
        with anyio.move_on_after(patience):
            await self._stdin.flushed()
            self._stdin.close()
            await self._exited.wait()
        self._stdin.close()
        if not self._exited.is_set():
            self._signal(signal.SIGTERM)
            with anyio.move_on_after(_AFTER_SIGTERM):
                await self._exited.wait()
        if not self._exited.is_set():
            self._signal(signal.SIGKILL)
            await self._exited.wait()

    async def _receive_all(self, receive: Receive) -> None:
        async for line in self._stdout:
            await self._receive_one(line, receive)
            del line  # It may be large, and the next one too.

    async def _receive_one(self, line: bytes, receive: Receive) -> None:
        try:
            message = read(line)
        except Unreadable:
            message = None
        except RecursionError:  # JSON perhaps, and the client may be able to read it.
            message = Message(line, None)
        if message is not None and (message.value is None or _may_be_json_rpc(message)):
            await receive(message)
        elif line.strip():
            log.warning(
                "proxy.no_message",
                what=f"{self._name} wrote to its stdout what is no message of the protocol: {_shown(line)}",
                remedy="the client was not given it; a stdio server must print to stderr.",
            )

    async def _watch(self) -> None:
        await anyio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
        # What it started and left behind would hold its pipes open. The group's number cannot be another's while one
        # of them lives.
        self._signal(signal.SIGKILL)
        self._exited.set()
        self._stdout.finish()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _ended(self) -> Ended:
        code = self._process.returncode
        if code < 0:
            how, exit_code = f"was ended by signal {-code} ({signal.strsignal(-code)})", 128 - code
        else:
            how, exit_code = f"ended with exit code {code}", code
        return Ended(
            what=f"The MCP server behind perdure proxy ({self._name}) {how}.",
            remedy="see what it wrote to stderr, then start the session anew; what was kept is still there.",
            exit_code=exit_code,
        )


def _may_be_json_rpc(message: Message) -> bool:
    """Some servers print their log to stdout, as JSON."""
    match message.value:
        case dict(body):
            return not {"jsonrpc", "method", "result", "error"}.isdisjoint(body)
        case list(batch):
            return all(isinstance(item, dict) for item in batch)
        case _:
            return False


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")
