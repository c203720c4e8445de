"""Turns as an engine hands them to a store, with everything filled in that a test does not care about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.middleware.persistence.serialization import digest
from perdure.middleware.persistence.turn import Answer, Outcome, StoredFile, Turn, new_turn_id

__all__ = ["a_file", "a_turn", "answered", "ended"]

_THEN = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)


def a_turn(prompt: str = "", *, continuation_id: str, principal: str = "alice", **changes: Any) -> Turn:
    """A turn in stored form under an id of its own."""
    arguments = changes.pop("arguments", {"prompt": prompt})
    tool = changes.pop("tool", "chat")
    turn = Turn(
        id=new_turn_id(_THEN),
        principal=principal,
        continuation_id=continuation_id,
        tool=tool,
        prompt=prompt,
        arguments=arguments,
        started_at=_THEN,
        lease_until=_THEN + timedelta(minutes=15),
        digest=digest(tool, arguments),
        stored_form=True,
    )
    return replace(turn, **changes)


def a_file(principal: str, name: str, content: str) -> StoredFile:
    """Whose hash is `content`, filled up with zeros."""
    sha256 = f"{content:0>64}"
    return StoredFile(
        key=f"{principal}/{sha256}/{name}",
        bucket="files",
        name=name,
        sha256=sha256,
        size=1,
        media_type="text/plain",
    )


def answered(turn: Turn, text: str = "", *, tokens: int = 10) -> Turn:
    """`turn` with an answer as a tool gives it: the text, and the same in the wire's form."""
    result = {"content": [{"type": "text", "text": text}]}
    return ended(turn, Outcome.ANSWERED, Answer(text=text, result=result), tokens=tokens)


def ended(turn: Turn, outcome: Outcome, answer: Answer | None = None, *, tokens: int = 10) -> Turn:
    return replace(turn.ended(outcome, turn.started_at + timedelta(seconds=3), answer or Answer()), tokens=tokens)
