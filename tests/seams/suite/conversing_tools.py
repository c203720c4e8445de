"""Tools that say what reached them, for the themes of conversations: ids, histories, announcements, settings."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from seams.worlds.world import Kit, Tool

from perdure import History, current_conversation, persisted

__all__ = ["conversing", "declaring", "nested", "remembering", "strict"]


def conversing(_: Kit) -> Sequence[Tool]:
    async def chat(prompt: str, size: int = 1) -> str:
        """Says what it was told."""
        return f"<{prompt}>"

    def chat_plainly(prompt: str) -> str:
        return f"<{prompt}>"

    async def ask(query: str) -> str:
        return f"<{query}>"

    async def answers(prompt: str) -> str:
        """Tells what the conversation is by the context variable."""
        here = current_conversation()
        if here is None:
            return "none"
        return " / ".join([here.continuation_id, here.history.state.value, *(turn.prompt for turn in here.history)])

    async def short(prompt: Annotated[str, Field(max_length=20)]) -> str:
        return f"<{prompt}>"

    return [chat, chat_plainly, ask, answers, short]


def remembering(_: Kit) -> Sequence[Tool]:
    async def recall(prompt: str, history: History) -> str:
        """Answers with what was asked before."""
        return f"{history.state.value}: " + ", ".join(turn.prompt for turn in history)

    def recall_plainly(prompt: str, *, past: History) -> str:
        return f"{past.state.value}: " + ", ".join(turn.prompt for turn in past)

    return [recall, recall_plainly]


def declaring(_: Kit) -> Sequence[Tool]:
    async def own(prompt: str, continuation_id: str | None = None) -> str:
        """Has an id of its own."""
        return f"{prompt} {continuation_id}"

    return [own]


def nested(_: Kit) -> Sequence[Tool]:
    @persisted
    async def inner(prompt: str) -> str:
        return f"<{prompt}>"

    async def outer(prompt: str) -> str:
        """Calls another tool's function."""
        return await inner(prompt)

    return [outer]


class StrictReport(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str


def strict(kit: Kit) -> Sequence[Tool]:
    async def report(prompt: str) -> StrictReport:
        return StrictReport(title=prompt)

    async def counts(prompt: str) -> dict[str, int]:
        return {prompt: 1}

    async def anything(prompt: str) -> dict[str, Any]:
        return {"said": prompt}

    async def fails(prompt: str) -> kit.CallToolResult:  # type: ignore[name-defined]
        return kit.result({"content": [{"type": "text", "text": prompt}], "isError": True})

    async def only_structured(prompt: str) -> kit.CallToolResult:  # type: ignore[name-defined]
        return kit.result({"content": [], "structuredContent": {"said": prompt}})

    return [report, counts, anything, fails, only_structured]
