"""A TCP proxy before Postgres that loses replies, so that a client cannot know whether its COMMIT took place."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from typing import Any, Self
from urllib.parse import urlsplit

from servers.backend_replies import BackendReplies, Reply

# Requests that precede the StartupMessage; each is answered by one byte (protocol, "SSL Session Encryption").
NEGOTIATIONS = {80877103: "SSLRequest", 80877104: "GSSENCRequest"}
PIECE = 65536


class CuttingProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target_port`, and cuts connections when told to.

    A cut comes when a reply is complete: the query has run and its transaction, if it ended, is over. The rest of the
    reply is dropped and both sides are closed. All methods may be called from any thread.
    """

    def __init__(self, target_port: int, *, cut_probability: float = 0.0, seed: int = 0) -> None:
        """
        Args:
            cut_probability: For each reply to a query; never for start-up and authentication. May be changed later.
            seed: One connection at a time is cut at the same replies in every run.
        """
        self.cut_probability = cut_probability
        self.cuts = 0
        self.replies = 0
        self.port = 0
        self._target_port = target_port
        self._chance = random.Random(seed)
        self._ordered: list[str | None] = []
        self._flowing = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cutting-proxy", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def close(self) -> None:
        """Close every connection and stop listening."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, direct: str) -> str:
        """The URL `direct` of the target, through this proxy."""
        target = urlsplit(direct)
        credentials, _, _ = target.netloc.rpartition("@")
        return target._replace(netloc=f"{credentials}@127.0.0.1:{self.port}").geturl()

    def cut_next(self, command: str | None = None) -> None:
        """Cut one connection at the next reply, or at the next that completes `command`, such as "COMMIT"."""
        self._now(lambda: self._ordered.append(command))

    def cut_all(self) -> None:
        """Close every connection now, whatever it is doing; these are not counted in `cuts`."""
        self._call(self._end_connections())

    def hang(self) -> None:
        """Take connections and bytes, and pass nothing on until `release`.

        What clients sent meanwhile then still reaches the server, even from those that gave up, as packets may.
        """
        self._now(self._flowing.clear)

    def release(self) -> None:
        self._now(self._flowing.set)

    async def _listen(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        await self._end_connections()

    async def _end_connections(self) -> None:
        ending = list(self._connections)
        for connection in ending:
            connection.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._connections.add(me)
        to_server = None
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
            await self._negotiate(client, to_client, server, to_server)
            directions = [self._forward(client, to_server), self._forward_replies(server, to_client)]
            await _until_one_ends(directions)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # one side is gone or `close` was called: so goes the other
        finally:
            self._connections.discard(me)
            for writer in (to_client, to_server):
                if writer is not None:
                    writer.close()

    async def _negotiate(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        """Pass on what comes before messages have kinds; the target must refuse TLS, or nothing could be read."""
        while True:
            head = await client.readexactly(8)
            await self._flowing.wait()
            to_server.write(head)
            if int.from_bytes(head[4:]) not in NEGOTIATIONS:
                return
            answer = await server.readexactly(1)
            await self._flowing.wait()
            to_client.write(answer)

    async def _forward(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while piece := await source.read(PIECE):
            await self._flowing.wait()
            to.write(piece)
            await to.drain()

    async def _forward_replies(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        replies = BackendReplies()
        while piece := await server.read(PIECE):
            await self._flowing.wait()
            kept = 0
            for reply in replies.ended_in(piece):
                if self._is_cut(reply):
                    to_client.write(piece[:kept])  # earlier replies that came in the same piece
                    return
                kept = reply.end
            to_client.write(piece)
            await to_client.drain()

    def _is_cut(self, reply: Reply) -> bool:
        self.replies += 1
        cut = self._chance.random() < self.cut_probability
        for wanted in self._ordered:
            if wanted is None or any(tag.split()[0] == wanted for tag in reply.tags):
                self._ordered.remove(wanted)
                cut = True
                break
        self.cuts += cut
        return cut

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _now(self, change: Any) -> None:
        async def changed() -> None:
            change()

        self._call(changed())


async def _until_one_ends(directions: list[Coroutine[Any, Any, None]]) -> None:
    tasks = [asyncio.ensure_future(direction) for direction in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
