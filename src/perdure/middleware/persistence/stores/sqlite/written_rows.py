"""What is written of a turn, made before the transaction that writes it: others wait for that."""

import json
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.serialization import answer_and_copy, exact_json, prompt_and_copy
from perdure.middleware.persistence.stores.known_turns import OF_A_TURN, KnownTurn
from perdure.middleware.persistence.turn import Answer, JsonObject, Turn

__all__ = ["AnswerRow", "PromptRow", "answer_row", "as_read", "prompt_row"]


class PromptRow(NamedTuple):
    turn: Turn
    content: str
    body: str | None
    lease_until: str
    started_at: str
    metadata: str | None
    arguments: JsonObject | None
    """As they will be read again, a copy; None where only reading tells."""
    characters: int
    """Of all its texts."""

    def values(self, key: int, place: int) -> tuple[str | int | None, ...]:
        """What `add_prompt` is given for that place in the conversation of that key."""
        turn = self.turn
        return (
            key << 32 | place << 1,
            key,
            turn.id,
            place,
            self.content,
            self.body,
            turn.tool,
            turn.digest,
            turn.after_place,
            turn.deferred,
            self.lease_until,
            self.started_at,
            self.metadata,
        )


class AnswerRow(NamedTuple):
    turn: Turn
    content: str
    body: str | None
    ended: datetime
    ended_at: str
    answer: Answer | None
    """As it will be read again, a copy; None where only reading tells."""

    def values(self, key: int, place: int) -> tuple[str | int | None, ...]:
        """What `add_answer` is given for the turn at that place in the conversation of that key."""
        turn = self.turn
        return (
            key << 32 | place << 1,
            turn.id,
            turn.digest,
            place,
            self.content,
            self.body,
            turn.outcome._value_,  # `value` takes two calls
            turn.tokens,
            self.ended_at,
        )


def prompt_row(turn: Turn) -> PromptRow:
    (content, body), arguments = prompt_and_copy(turn.prompt, turn.arguments)
    metadata = exact_json(turn.metadata) if turn.metadata else None
    return PromptRow(
        turn,
        content,
        body,
        turn.lease_until.isoformat(),
        turn.started_at.isoformat(),
        metadata,
        arguments,
        len(content) + len(body or "") + len(metadata or ""),
    )


def answer_row(turn: Turn, clock: Clock) -> AnswerRow:
    """`clock` tells when it ended, if it does not say so itself."""
    message, answer = answer_and_copy(turn.answer or Answer())
    ended_at = turn.ended_at or clock.now()
    return AnswerRow(turn, message.content, message.body, ended_at, ended_at.isoformat(), answer)


@lru_cache(maxsize=64)
def _read_again(metadata: str) -> JsonObject:
    """The same object for the same text, of which there are few: what is known of turns is nobody's to change."""
    read: JsonObject = json.loads(metadata)
    return read


def as_read(prompt: PromptRow, answer: AnswerRow, continuation_id: str, place: int) -> KnownTurn | None:
    """What a reader will be given of a turn that was answered; None where only reading tells."""
    if prompt.arguments is None or answer.answer is None:
        return None
    turn = prompt.turn.changed(
        continuation_id=continuation_id,
        arguments=prompt.arguments,
        metadata=_read_again(prompt.metadata) if prompt.metadata else {},
        place=place,
        outcome=answer.turn.outcome,
        answer=answer.answer,
        ended_at=answer.ended,
        tokens=answer.turn.tokens,
        minted=False,
        adopt=True,
        fresh_id="",
        expire_after=None,
        files=(),
    )
    characters = OF_A_TURN + prompt.characters + len(answer.content) + len(answer.body or "")
    return KnownTurn(turn, characters)
