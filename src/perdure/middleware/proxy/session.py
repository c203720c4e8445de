"""One client's session with one server, from its beginning to its end: nobody is left waiting, nothing left running."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup

from perdure.logs import log
from perdure.middleware.proxy.pipes import LineReader, LineWriter
from perdure.middleware.proxy.relay import Relay
from perdure.middleware.proxy.upstream import Ended, Upstream

__all__ = ["own_stdio", "serve"]

_TO_ANSWER = 10.0
"""Seconds that the server has for what it was asked before the client closed stdin, if the client still reads."""

_TO_FINISH = 1.5
"""Seconds that it has to end by itself, if there is nothing to answer."""

_WHEN_HURRIED = 0.3
"""The same where we were told to end. The mcp client tells us 2 s after it has closed stdin, and kills 2 s later."""

_TO_ASK = 1.0
"""Seconds in which a client that has not asked anything can still learn why the server is not there."""

_TO_READ = 2.0
"""Seconds that the client has to take what was written."""


async def serve(start: Callable[[], Upstream], client_in: int, client_out: int) -> int:
    """Serve the client at these descriptors until one of both is gone. Returns the exit code."""
    client = LineWriter(client_out)
    async with anyio.create_task_group() as pipes:
        pipes.start_soon(client.run)
        exit_code = await _Session(start(), LineReader(client_in), client).run()
        with anyio.move_on_after(_TO_READ):
            await client.flushed()
        client.close()
    return exit_code


def own_stdio() -> tuple[int, int]:
    """The client's ends of stdin and stdout. Nothing else in this process can read or print there any more."""
    client_in, client_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return client_in, client_out


@dataclass(frozen=True)
class _ClientGone:
    still_reads: bool


@dataclass(frozen=True)
class _Told:
    number: int


_End: TypeAlias = Ended | _ClientGone | _Told


class _Session:
    def __init__(self, upstream: Upstream, reader: LineReader, client: LineWriter) -> None:
        self._upstream = upstream
        self._reader = reader
        self._client = client
        self._end: _End | None = None
        self._ending = anyio.Event()
        self._patience = anyio.CancelScope()
        """Is over when we are told to end, or nobody reads any more."""

    async def run(self) -> int:
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as calls:
                relay = Relay(self._upstream, self._client, calls)
                upstream_ended = anyio.Event()
                tasks.start_soon(self._serve_upstream, relay, upstream_ended)
                tasks.start_soon(self._serve_client, relay)
                tasks.start_soon(self._notice_a_client_that_goes)
                tasks.start_soon(self._notice_signals)
                await self._ending.wait()
                if isinstance(self._end, Ended):
                    await self._explain(self._end, relay)
                else:
                    await self._end_upstream(relay, calls, upstream_ended)
            tasks.cancel_scope.cancel()
        match self._end:
            case Ended(exit_code=code):
                return code
            case _Told(number):
                return 128 + number
            case _:
                return 0

    async def _explain(self, ended: Ended, relay: Relay) -> None:
        log.error("proxy.server_ended", what=ended.what, remedy=ended.remedy)
        with anyio.move_on_after(_TO_ASK):
            await relay.heard.wait()

    async def _end_upstream(self, relay: Relay, calls: TaskGroup, upstream_ended: anyio.Event) -> None:
        if isinstance(self._end, _ClientGone):
            with self._patience:
                with anyio.move_on_after(_TO_ANSWER):
                    await relay.all_sent()
                waits = self._end.still_reads and relay.is_waiting
                await self._upstream.end(patience=_TO_ANSWER if waits else _TO_FINISH)
                with anyio.move_on_after(_TO_READ):
                    await upstream_ended.wait()
        # What still runs is recorded as cancelled before anything else: there may be little time.
        calls.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._upstream.end(patience=_WHEN_HURRIED)

    async def _serve_upstream(self, relay: Relay, done: anyio.Event) -> None:
        ended = await self._upstream.run(relay.from_server)
        if self._end is None:
            await relay.gone(ended)
        self._finish(ended)
        done.set()

    async def _serve_client(self, relay: Relay) -> None:
        async for line in self._reader:
            await relay.from_client(line)
            del line  # It may be large, and the next one too.
        relay.heard.set()
        self._finish(_ClientGone(still_reads=True))

    async def _notice_a_client_that_goes(self) -> None:
        await self._client.nobody_reads()
        self._finish(_ClientGone(still_reads=False))

    async def _notice_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                self._finish(_Told(number))

    def _finish(self, end: _End) -> None:
        """The first reason counts, unless a client that only closed stdin now has more to say."""
        if self._end is None:
            self._end = end
            self._ending.set()
        elif isinstance(self._end, _ClientGone) and not isinstance(end, Ended):
            self._end = end
            self._patience.cancel()
