"""langgraph: the checkpoint savers for SQLite and Postgres. A turn loads a thread's state, and saves it longer."""

import sys
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint

from benchmarks.peers.worker import serve, texts_of

_CHANNEL = "messages"


class Savers:
    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._stack = AsyncExitStack()
        self._saver: Any = None

    async def open(self, where: str) -> None:
        if self._backend == "postgres":
            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # noqa: PLC0415
            from psycopg.rows import dict_row  # noqa: PLC0415
            from psycopg_pool import AsyncConnectionPool  # noqa: PLC0415

            pool = AsyncConnectionPool(
                where, min_size=8, max_size=8, open=False, kwargs={"autocommit": True, "row_factory": dict_row}
            )
            await self._stack.enter_async_context(pool)
            self._saver = AsyncPostgresSaver(pool)
        else:
            from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # noqa: PLC0415

            made = AsyncSqliteSaver.from_conn_string(str(Path(where) / "checkpoints.db"))
            self._saver = await self._stack.enter_async_context(made)
        await self._saver.setup()

    async def plant(self, conversation: str, messages: int) -> None:
        await self._put(conversation, None, texts_of(messages))

    async def turn(self, conversation: str, prompt: str, answer: str) -> int:
        before = await self._saver.aget_tuple(_thread(conversation))
        texts = list(before.checkpoint["channel_values"][_CHANNEL]) if before else []
        await self._put(conversation, before, [*texts, prompt, answer])
        return len(texts)

    async def texts(self, conversation: str) -> Sequence[str]:
        found = await self._saver.aget_tuple(_thread(conversation))
        return list(found.checkpoint["channel_values"][_CHANNEL])

    async def close(self) -> None:
        await self._stack.aclose()

    async def _put(self, conversation: str, before: Any, texts: list[str]) -> None:
        number = (before.checkpoint["channel_versions"][_CHANNEL] if before else 0) + 1
        checkpoint = empty_checkpoint()
        checkpoint["id"] = f"{number:020d}-{uuid.uuid4()}"  # the newest id is the newest checkpoint
        checkpoint["channel_values"] = {_CHANNEL: texts}
        checkpoint["channel_versions"] = {_CHANNEL: number}
        await self._saver.aput(
            before.config if before else _thread(conversation),
            checkpoint,
            {"source": "loop", "step": number, "parents": {}},
            {_CHANNEL: number},
        )


def _thread(conversation: str) -> Any:
    return {"configurable": {"thread_id": conversation, "checkpoint_ns": ""}}


if __name__ == "__main__":
    serve(Savers(sys.argv[1]))
