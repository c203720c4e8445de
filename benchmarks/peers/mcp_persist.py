"""mcp-persist: an event store, for the resuming of a stream. A turn replays the newest 40 events and stores two."""

import sys
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from mcp_persist import PostgresEventStore, SQLiteEventStore
from mcp_types import JSONRPCNotification

from benchmarks.peers.worker import serve, texts_of

_WINDOW = 40


class Events:
    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._stack = AsyncExitStack()
        self._store: Any = None
        self._newest: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_WINDOW + 1))
        self._first: dict[str, str] = {}

    async def open(self, where: str) -> None:
        made = (
            PostgresEventStore.create(where, min_size=8, max_size=8)
            if self._backend == "postgres"
            else SQLiteEventStore.create(str(Path(where) / "events.db"))
        )
        self._store = await self._stack.enter_async_context(made)

    async def plant(self, conversation: str, messages: int) -> None:
        for text in texts_of(messages):
            await self._put(conversation, text)

    async def turn(self, conversation: str, prompt: str, answer: str) -> int:
        newest = self._newest[conversation]
        read = await self._after(conversation, newest[0]) if newest else []
        await self._put(conversation, prompt)
        await self._put(conversation, answer)
        return len(read)

    async def texts(self, conversation: str) -> Sequence[str]:
        return await self._after(conversation, self._first[conversation])

    async def close(self) -> None:
        await self._stack.aclose()

    async def _put(self, conversation: str, text: str) -> None:
        if conversation not in self._first:  # events are read after another: this one stands before all
            self._first[conversation] = await self._store.store_event(conversation, _message(""))
        self._newest[conversation].append(await self._store.store_event(conversation, _message(text)))

    async def _after(self, conversation: str, event_id: str) -> list[str]:
        found: list[str] = []

        async def take(event: Any) -> None:
            found.append(event.message.params["data"])

        await self._store.replay_events_after(event_id, take, conversation)
        return found


def _message(text: str) -> JSONRPCNotification:
    return JSONRPCNotification(jsonrpc="2.0", method="notifications/message", params={"data": text})


if __name__ == "__main__":
    serve(Events(sys.argv[1]))
