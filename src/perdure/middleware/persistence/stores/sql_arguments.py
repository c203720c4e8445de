"""What the SQL functions are given of a turn; and beside it what reading that again will give."""

from datetime import UTC, datetime
from typing import NamedTuple

from perdure.middleware.persistence.serialization import (
    Prompt,
    answer_and_copy,
    prompt_and_copies,
    readable_json,
)
from perdure.middleware.persistence.stores.known_turns import OF_A_TURN, KnownTurn
from perdure.middleware.persistence.stores.known_windows import BegunHere
from perdure.middleware.persistence.turn import Answer, JsonObject, Turn, new_turn_id

__all__ = ["Beginning", "Ending", "as_read", "beginning_of", "ending_of"]


class Beginning(NamedTuple):
    given: JsonObject
    """All that makes a turn known that was not known before. No value of it is None."""
    prompt: Prompt | None
    """As it will be read again, a copy; None where only reading tells."""
    characters: int


class Ending(NamedTuple):
    given: JsonObject
    """No value of it is None."""
    answer: Answer | None
    """As it will be read again, a copy; None where only reading tells."""
    ended_at: datetime
    characters: int


def beginning_of(turn: Turn, now: datetime) -> Beginning:
    message, prompt = prompt_and_copies(turn.prompt, turn.arguments, turn.metadata)
    given: JsonObject = {
        "turn_id": turn.id,
        "user_id": turn.principal,
        "continuation_id": turn.continuation_id,
        "tool": turn.tool,
        "digest": turn.digest,
        "content": message.content,
        "body": message.body,
        "started_at": turn.started_at.isoformat(),
        "lease_until": turn.lease_until.isoformat(),
        "at": now.isoformat(),
    }
    # What is not given is as it mostly is.
    if turn.minted:
        given["minted"] = True
    if not turn.adopt:
        given["adopt"] = False
    if turn.deferred:
        given["deferred"] = True
    if turn.metadata:
        given["metadata"] = readable_json(turn.metadata)
    if turn.fresh_id:
        given["fresh_id"] = turn.fresh_id
    if turn.after_place is not None:
        given["after_place"] = turn.after_place
    if turn.expire_after:
        given["expires_at"] = (now + turn.expire_after).isoformat()
    return Beginning(given, prompt, len(message.content) + len(message.body or ""))


def ending_of(turn: Turn, now: datetime) -> Ending:
    message, answer = answer_and_copy(turn.answer or Answer())
    ended_at = turn.ended_at or now
    given: JsonObject = {
        "turn_id": turn.id,
        # Nobody can know it beforehand: a row that stood there already would keep the answer out.
        "answer_id": new_turn_id(ended_at),
        "user_id": turn.principal,
        "digest": turn.digest,
        "outcome": turn.outcome.value,
        "answer": message.content,
        "answer_body": message.body,
        "tokens": turn.tokens,
        "ended_at": ended_at.isoformat(),
    }
    if turn.files:
        given["files"] = [
            {
                "name": file.name,
                "bucket": file.bucket,
                "key": file.key,
                "sha256": file.sha256,
                "size": file.size,
                "media_type": file.media_type,
            }
            for file in turn.files
        ]
    return Ending(given, answer, ended_at, len(message.content) + len(message.body or ""))


def as_read(begun: BegunHere, turn: Turn, ending: Ending, continuation_id: str, version: int) -> KnownTurn | None:
    """What a reader will be given of `turn`, which was answered; None where only reading tells.

    `version`: of its answer alone.
    """
    if begun.prompt is None or ending.answer is None:
        return None
    read = begun.turn.changed(
        continuation_id=continuation_id,
        arguments=begun.prompt.arguments,
        metadata=begun.prompt.metadata,
        started_at=begun.turn.started_at.astimezone(UTC),
        lease_until=begun.turn.lease_until.astimezone(UTC),
        place=begun.place,
        outcome=turn.outcome,
        answer=ending.answer,
        ended_at=ending.ended_at.astimezone(UTC),
        tokens=turn.tokens,
        minted=False,
        adopt=True,
        fresh_id="",
        expire_after=None,
        files=(),
    )
    return KnownTurn(read, OF_A_TURN + begun.characters + ending.characters, begun.version ^ version)
