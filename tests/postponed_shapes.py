"""Handlers whose annotations are text: in functions, and in class bodies that name what is defined only later."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver import Context as Request
from mcp.server.mcpserver.resolve import Resolve
from pydantic import BaseModel, Field

from perdure import History, persisted
from perdure import History as Past

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

__all__ = ["SHAPES", "Later", "PersistedPast"]


async def chat(prompt: Annotated[str, Field(max_length=99)], ctx: Context, size: int = 1) -> Answer:
    """Talks."""
    return Answer(text=f"{prompt} {ctx.mcp_server.name} {size}")


async def resolved(prompt: str, topic: Annotated[Topic, Resolve(lambda: Topic(name="tea"))]) -> str:
    return f"{prompt} {topic.name}"


class Bare:
    async def ask(self, prompt: str, topic: Topic | None = None, *, deep: bool = False) -> Answer:
        """Asks."""
        return Answer(text=f"{prompt} {topic} {deep}")

    def ask_plainly(self, topic: Topic) -> dict[str, Any]:
        return {"topic": topic.name}

    @staticmethod
    async def ask_nobody(prompt: str) -> Answer:
        return Answer(text=prompt)

    async def ask_with_context(self, prompt: str, topic: Topic | None, ctx: Context) -> Answer:
        return Answer(text=f"{prompt} {topic} {ctx.mcp_server.name}")

    async def ask_with_renamed_context(self, prompt: str, topic: Topic | None, ctx: Request) -> Answer:
        return Answer(text=f"{prompt} {topic} {ctx.mcp_server.name}")


class Persisted:
    @persisted
    async def ask(self, prompt: str, topic: Topic | None = None, *, deep: bool = False) -> Answer:
        """Asks."""
        return Answer(text=f"{prompt} {topic} {deep}")

    @persisted
    def ask_plainly(self, topic: Topic) -> dict[str, Any]:
        return {"topic": topic.name}

    @staticmethod
    @persisted
    async def ask_nobody(prompt: str) -> Answer:
        return Answer(text=prompt)

    @persisted
    async def ask_with_context(self, prompt: str, topic: Topic | None, ctx: Context) -> Answer:
        return Answer(text=f"{prompt} {topic} {ctx.mcp_server.name}")

    @persisted
    async def ask_with_renamed_context(self, prompt: str, topic: Topic | None, ctx: Request) -> Answer:
        return Answer(text=f"{prompt} {topic} {ctx.mcp_server.name}")


class PersistedPast:
    @persisted
    async def remember(self, prompt: str, topic: Topic | None, history: History) -> str:
        return " / ".join(turn.prompt for turn in history)

    @persisted
    async def remember_renamed(self, prompt: str, topic: Topic | None, past: Past) -> str:
        return " / ".join(turn.prompt for turn in past)


class Topic(BaseModel):
    """What it is about."""

    name: str


class Answer(BaseModel):
    text: str


Later = Topic

Register = Callable[["MCPServer", Callable[[Any], Any]], None]


def _function(handler: Callable[..., Any]) -> Register:
    return lambda mcp, persist: mcp.add_tool(persist(handler))


def _method(name: str) -> Register:
    """`persist` only tells which class to take: a class body is executed once."""

    def register(mcp: MCPServer, persist: Callable[[Any], Any]) -> None:
        owner = Persisted() if persist is persisted else Bare()
        mcp.add_tool(getattr(owner, name))

    return register


SHAPES: list[tuple[str, Register, dict[str, Any]]] = [
    ("function", _function(chat), {"prompt": "a", "size": 2}),
    ("resolved_parameter", _function(resolved), {"prompt": "a"}),
    ("method", _method("ask"), {"prompt": "a", "topic": {"name": "tea"}, "deep": True}),
    ("sync_method", _method("ask_plainly"), {"topic": {"name": "tea"}}),
    ("static_method", _method("ask_nobody"), {"prompt": "a"}),
    ("method_with_context", _method("ask_with_context"), {"prompt": "a", "topic": None}),
    ("method_with_renamed_context", _method("ask_with_renamed_context"), {"prompt": "a", "topic": None}),
]
