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

_TO_FINISH = 1.5
"""Seconds that the server has to end by itself when the client has closed stdin. The mcp client waits 2."""

_TO_FINISH_WHEN_TOLD = 0.3
"""The same when we were told to end. The mcp client kills 2 s after that."""

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
    pass


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
                exit_code = await self._take_leave(relay, calls, upstream_ended)
            tasks.cancel_scope.cancel()
        return exit_code

    async def _take_leave(self, relay: Relay, calls: TaskGroup, upstream_ended: anyio.Event) -> int:
        match self._end:
            case Ended() as ended:
                log.error("proxy.server_ended", what=ended.what, remedy=ended.remedy)
                with anyio.move_on_after(_TO_ASK):
                    await relay.heard.wait()
                return ended.exit_code
            case _Told(number):
                # What runs is recorded as cancelled before anything else: there may be little time.
                calls.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._upstream.end(patience=_TO_FINISH_WHEN_TOLD)
                return 128 + number
            case _:
                # A server may still answer what it was asked.
                with anyio.move_on_after(_TO_FINISH):
                    await relay.all_sent()
                await self._upstream.end(patience=_TO_FINISH)
                with anyio.move_on_after(_TO_READ):
                    await upstream_ended.wait()
                calls.cancel_scope.cancel()
                return 0

    async def _serve_upstream(self, relay: Relay, done: anyio.Event) -> None:
        ended = await self._upstream.run(relay.from_server)
        if self._end is None:
            await relay.gone(ended)
        self._finish(ended)
        done.set()

    async def _serve_client(self, relay: Relay) -> None:
        async for line in self._reader:
            await relay.from_client(line)
        relay.heard.set()
        self._finish(_ClientGone())

    async def _notice_a_client_that_goes(self) -> None:
        await self._client.nobody_reads()
        self._finish(_ClientGone())

    async def _notice_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                self._finish(_Told(number))

    def _finish(self, end: _End) -> None:
        if self._end is None:
            self._end = end
            self._ending.set()
