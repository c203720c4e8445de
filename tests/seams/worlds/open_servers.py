"""Servers in processes of their own that serve one behaviour after the other: to start one takes a second or two.

Between behaviours the record is emptied. A client belongs to the event loop that it was made in, and every test has a
loop of its own; so the clients of these servers live in a thread, and are asked from there.
"""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from seams.worlds.world import Json, ToolClient

__all__ = ["OPEN_SERVERS", "OpenServer", "OpenServers"]

Start = Callable[[dict[str, str]], AbstractAsyncContextManager["ToolClient"]]
"""Starts a server in this environment, and gives a client of it."""

_T = TypeVar("_T")


class OpenServers:
    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._open: OrderedDict[Hashable, OpenServer] = OrderedDict()

    async def take(self, key: Hashable, settings: str, start: Start, behaviour: object) -> "OpenServer":
        """The server known by `key`, with nothing in its record but what this `behaviour` has put there.

        Its folder is that of this process's environment from here on.
        """
        server = self._open.get(key)
        if server is None:
            server = self._open[key] = OpenServer(settings, start)
            await asyncio.to_thread(server.start)
        self._open.move_to_end(key)
        while len(self._open) > self._most:
            _, oldest = self._open.popitem(last=False)
            await asyncio.to_thread(oldest.close)
        server.become_this_processes_own()
        server.begin(behaviour)
        return server

    def close(self) -> None:
        while self._open:
            _, server = self._open.popitem()
            server.close()

    async def drop(self, key: Hashable) -> None:
        """What failed once is not trusted again."""
        if (server := self._open.pop(key, None)) is not None:
            await asyncio.to_thread(server.close)


OPEN_SERVERS = OpenServers()


class OpenServer:
    def __init__(self, settings: str, start: Start) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="perdure-suite-"))
        (self._folder / "perdure.toml").write_text(settings)
        self._start = start
        self._behaviour: object = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)
        self._started = threading.Event()
        self._failure: BaseException | None = None

    @property
    def client(self) -> "ToolClient":
        return self._client

    def become_this_processes_own(self) -> None:
        """So that what a behaviour looks up by the environment is this server's. The test's fixtures restore it."""
        os.environ["PERDURE_CONFIG"] = str(self._folder / "perdure.toml")
        os.environ["PERDURE_DATA_DIR"] = str(self._folder / "data")

    def begin(self, behaviour: object) -> None:
        """Empty the record, unless it is this one's own."""
        if self._behaviour is behaviour:
            return
        self._behaviour = behaviour
        database = self._folder / "data" / "perdure.db"
        if not database.exists():
            return
        with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection, connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("DELETE FROM chat_sessions")

    def start(self) -> None:
        """
        Raises:
            Exception: As starting it did.
        """
        self.become_this_processes_own()
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()
        shutil.rmtree(self._folder)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        try:
            async with self._start(dict(os.environ)) as client:
                self._client = _FromAnyLoop(client, self._loop)
                self._started.set()
                await self._ended.wait()
        except Exception as error:
            self._failure = error
        finally:
            self._started.set()


class _FromAnyLoop:
    """A `ToolClient` that lives in another event loop."""

    def __init__(self, client: "ToolClient", loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    async def list_tools(self) -> "list[Json]":
        return await self._there(self._client.list_tools())

    async def call_tool(self, *args: Any, **kwargs: Any) -> "Json":
        return await self._there(self._client.call_tool(*args, **kwargs))

    async def give_up(self, name: str, arguments: "Json", when: Callable[[], Awaitable[None]]) -> None:
        await self._there(self._client.give_up(name, arguments, when))

    async def read_resource(self, uri: str) -> "Json":
        return await self._there(self._client.read_resource(uri))

    async def _there(self, asked: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, self._loop))
