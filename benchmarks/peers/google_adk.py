"""google-adk: `DatabaseSessionService`, driven as its `Runner` does, and `FileArtifactService`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService
from google.genai.types import Content, Part

from benchmarks.peers.worker import serve, texts_of

_APP, _USER = "benchmark", "local"


class Sessions:
    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._service: Any = None
        self._made: set[str] = set()

    async def open(self, where: str) -> None:
        if self._backend == "postgres":
            url, pool = where.replace("postgresql://", "postgresql+asyncpg://"), {"pool_size": 8}
        else:
            url, pool = f"sqlite+aiosqlite:///{Path(where) / 'sessions.db'}", {}
        self._service = DatabaseSessionService(url, **pool)

    async def plant(self, conversation: str, messages: int) -> None:
        session = await self._session(conversation)
        for number, text in enumerate(texts_of(messages)):
            await self._append(session, "model" if number % 2 else "user", text)

    async def turn(self, conversation: str, prompt: str, answer: str) -> int:
        session = await self._session(conversation)
        read = len(session.events)
        await self._append(session, "user", prompt)
        await self._append(session, "model", answer)
        return read

    async def texts(self, conversation: str) -> Sequence[str]:
        session = await self._session(conversation)
        return [event.content.parts[0].text for event in session.events]

    async def close(self) -> None:
        await self._service.close()

    async def _session(self, conversation: str) -> Any:
        if conversation not in self._made:
            session = await self._service.create_session(app_name=_APP, user_id=_USER, session_id=conversation)
            self._made.add(conversation)
            return session
        return await self._service.get_session(app_name=_APP, user_id=_USER, session_id=conversation)

    async def _append(self, session: Any, role: str, text: str) -> None:
        event = Event(
            author="user" if role == "user" else "agent",
            invocation_id="benchmark",
            content=Content(role=role, parts=[Part(text=text)]),
        )
        await self._service.append_event(session, event)


if __name__ == "__main__":
    serve(Sessions(sys.argv[1]))
