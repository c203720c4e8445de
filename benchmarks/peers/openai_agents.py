"""openai-agents: `SQLiteSession`, by default and with `limit=40`, and `SQLAlchemySession` on SQLite or Postgres."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents import SQLiteSession
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.peers.worker import serve, texts_of


class Sessions:
    """`limit` items are read for a turn; None: all of them, which is the default."""

    def __init__(self, kind: str, limit: int | None) -> None:
        self._kind = kind
        self._limit = limit
        self._open: dict[str, Any] = {}
        self._where = ""
        self._engine: AsyncEngine | None = None

    async def open(self, where: str) -> None:
        self._where = str(Path(where) / "sessions.db")
        if self._kind == "sqlalchemy":
            self._engine = create_async_engine(f"sqlite+aiosqlite:///{self._where}")
        elif self._kind == "postgres":
            self._engine = create_async_engine(where.replace("postgresql://", "postgresql+asyncpg://"), pool_size=8)

    async def plant(self, conversation: str, messages: int) -> None:
        items = [
            {"role": "assistant" if number % 2 else "user", "content": text}
            for number, text in enumerate(texts_of(messages))
        ]
        await self._session(conversation).add_items(items)

    async def turn(self, conversation: str, prompt: str, answer: str) -> int:
        session = self._session(conversation)
        history = await session.get_items(self._limit)
        await session.add_items([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
        return len(history)

    async def texts(self, conversation: str) -> Sequence[str]:
        return [str(item["content"]) for item in await self._session(conversation).get_items()]

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.dispose()

    def _session(self, conversation: str) -> Any:
        session = self._open.get(conversation)
        if session is None:
            if self._engine is None:
                session = SQLiteSession(conversation, self._where)
            else:
                session = SQLAlchemySession(conversation, engine=self._engine, create_tables=True)
            self._open[conversation] = session
        return session


if __name__ == "__main__":
    serve(Sessions(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))
