"""A load balancer before servers of streamable HTTP: connections in turn, and those of a session to its own server."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Sequence
from typing import Self

__all__ = ["LoadBalancer"]

_SESSION = re.compile(rb"\r\nmcp-session-id: *([^\r\n]+)", re.IGNORECASE)
_PIECE = 65536


class LoadBalancer:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`ports`, each connection to the next of them that can be reached.

    A connection whose first request names an MCP session goes to the server that gave the session its name, if that
    can be reached. Runs in a thread of its own.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.port = 0
        self.connections = [0 for _ in ports]
        """How many each server has been given."""
        self._ports = ports
        self._next = 0
        self._homes: dict[bytes, int] = {}
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="load-balancer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        ending = list(self._open)
        for connection in ending:
            connection.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._open.add(me)
        to_server = None
        # One side is gone, or `close` was called: so goes the other.
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError, asyncio.LimitOverrunError):
            try:
                head = await client.readuntil(b"\r\n\r\n")
                index, server, to_server = await self._connected(head)
                to_server.write(head)
                ways = [
                    asyncio.ensure_future(_forward(client, to_server)),
                    asyncio.ensure_future(self._back(index, server, to_client)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                self._open.discard(me)
                for writer in (to_client, to_server):
                    if writer is not None:
                        writer.close()

    async def _connected(self, head: bytes) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        """
        Raises:
            OSError: None of them can be reached.
        """
        named = _SESSION.search(head)
        first = self._homes.get(named[1]) if named else None
        if first is None:
            first = self._next = (self._next + 1) % len(self._ports)
        for step in range(len(self._ports)):
            index = (first + step) % len(self._ports)
            with contextlib.suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[index])
                self.connections[index] += 1
                return index, reader, writer
        raise ConnectionRefusedError("no server can be reached")

    async def _back(self, index: int, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while piece := await server.read(_PIECE):
            if given := _SESSION.search(piece):
                self._homes[given[1]] = index
            to_client.write(piece)
            await to_client.drain()


async def _forward(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    while piece := await source.read(_PIECE):
        to.write(piece)
        await to.drain()
