"""What the SQL functions answer, line by line, as values."""

from datetime import UTC, datetime
from typing import Any

from perdure.middleware.persistence.serialization import StoredMessage, decode_answer, decode_prompt
from perdure.middleware.persistence.stores.known_turns import OF_A_TURN
from perdure.middleware.persistence.turn import ConversationSummary, JsonObject, Outcome, StoredFile, Turn

__all__ = ["characters_of", "file_of", "summary_of", "time_of", "turn_of"]


def turn_of(line: JsonObject, principal: str, continuation_id: str) -> Turn:
    prompt = decode_prompt(StoredMessage(line["prompt"], line["prompt_body"]))
    answered = line["outcome"] is not None
    started_at = time_of(line["started_at"])
    return Turn(
        id=line["turn_id"],
        principal=principal,
        continuation_id=continuation_id,
        tool=line["tool"],
        prompt=prompt.text,
        arguments=prompt.arguments,
        started_at=started_at,
        lease_until=time_of(line["lease_until"]) if line["lease_until"] else started_at,
        outcome=Outcome(line["outcome"] or Outcome.RUNNING),
        answer=decode_answer(StoredMessage(line["answer"], line["answer_body"])) if answered else None,
        ended_at=time_of(line["ended_at"]) if answered else None,
        place=line["place"],
        after_place=line["after_place"],
        deferred=line["deferred"],
        tokens=line["tokens"] or 0,
        digest=line["digest"],
        metadata=prompt.metadata or line["metadata"] or {},
        stored_form=True,
    )


def characters_of(line: JsonObject) -> int:
    """Of its texts, and for what a turn is besides."""
    return OF_A_TURN + sum(len(line[name] or "") for name in ("prompt", "prompt_body", "answer", "answer_body"))


def summary_of(line: JsonObject) -> ConversationSummary:
    return ConversationSummary(
        principal=line["user_id"],
        continuation_id=line["continuation_id"],
        turns=line["last_place"],
        created_at=time_of(line["created_at"]),
        updated_at=time_of(line["updated_at"]),
        minted=line["minted"],
        expires_at=time_of(line["expires_at"]) if line["expires_at"] else None,
    )


def file_of(line: JsonObject) -> StoredFile:
    return StoredFile(
        key=line["key"],
        bucket=line["bucket"],
        name=line["name"],
        sha256=line["sha256"],
        size=line["size"],
        media_type=line["media_type"],
        version=line["version"],
        turn_id=line["turn_id"],
        continuation_id=line["continuation_id"],
        created_at=time_of(line["created_at"]),
    )


def time_of(text: Any) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
