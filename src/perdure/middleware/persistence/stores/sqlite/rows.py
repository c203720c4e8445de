"""What a row of the database says, as a value."""

import json
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from perdure.middleware.persistence.serialization import StoredMessage, decode_answer, decode_prompt
from perdure.middleware.persistence.turn import ConversationSummary, Outcome, StoredFile, Turn

__all__ = ["file_of", "summary_of", "turn_of"]


def summary_of(row: sqlite3.Row) -> ConversationSummary:
    return ConversationSummary(
        principal=row["user_id"],
        continuation_id=row["continuation_id"],
        turns=row["last_place"],
        created_at=datetime.fromisoformat(row["created_at"]),
        updated_at=datetime.fromisoformat(row["updated_at"]),
        minted=bool(row["minted"]),
        expires_at=datetime.fromisoformat(row["expires_at"]) if row["expires_at"] else None,
    )


def file_of(row: sqlite3.Row) -> StoredFile:
    return StoredFile(
        key=row["key"],
        bucket=row["bucket"],
        name=row["name"],
        sha256=row["sha256"],
        size=row["size"],
        media_type=row["media_type"],
        version=row["version"],
        turn_id=row["turn_id"],
        continuation_id=row["continuation_id"],
        created_at=datetime.fromisoformat(row["created_at"]),
    )


def turn_of(row: Iterable[Any], principal: str, continuation_id: str) -> Turn:
    """`row` has the columns of `turns_between`, in their order: by name, each would be looked for from the first."""
    (
        turn_id,
        place,
        prompt_text,
        prompt_body,
        tool,
        started_at,
        lease_until,
        digest,
        after_place,
        deferred,
        metadata,
        answer_text,
        answer_body,
        outcome,
        tokens,
        ended_at,
    ) = row
    prompt = decode_prompt(StoredMessage(prompt_text, prompt_body))
    answered = outcome is not None
    started = datetime.fromisoformat(started_at)
    return Turn(
        id=turn_id,
        principal=principal,
        continuation_id=continuation_id,
        tool=tool,
        prompt=prompt.text,
        arguments=prompt.arguments,
        started_at=started,
        lease_until=datetime.fromisoformat(lease_until) if lease_until else started,
        outcome=Outcome(outcome or Outcome.RUNNING),
        answer=decode_answer(StoredMessage(answer_text, answer_body)) if answered else None,
        ended_at=datetime.fromisoformat(ended_at) if answered else None,
        place=place,
        after_place=after_place,
        deferred=bool(deferred),
        tokens=tokens or 0,
        digest=digest,
        metadata=json.loads(metadata) if metadata else {},
        stored_form=True,
    )
