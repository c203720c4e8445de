"""What a row of the database says, as a value."""

import json
import sqlite3
from datetime import datetime

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


def turn_of(row: sqlite3.Row, principal: str, continuation_id: str) -> Turn:
    prompt = decode_prompt(StoredMessage(row["prompt"], row["prompt_body"]))
    answered = row["outcome"] is not None
    started_at = datetime.fromisoformat(row["started_at"])
    return Turn(
        id=row["turn_id"],
        principal=principal,
        continuation_id=continuation_id,
        tool=row["tool"],
        prompt=prompt.text,
        arguments=prompt.arguments,
        started_at=started_at,
        lease_until=datetime.fromisoformat(row["lease_until"]) if row["lease_until"] else started_at,
        outcome=Outcome(row["outcome"] or Outcome.RUNNING),
        answer=decode_answer(StoredMessage(row["answer"], row["answer_body"])) if answered else None,
        ended_at=datetime.fromisoformat(row["ended_at"]) if answered else None,
        place=row["turn_seq"],
        after_place=row["after_place"],
        deferred=bool(row["deferred"]),
        tokens=row["tokens"] or 0,
        digest=row["digest"],
        metadata=json.loads(row["metadata"]) if row["metadata"] else {},
        stored_form=True,
    )
