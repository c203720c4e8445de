"""A turn, a conversation and a file as a line of JSON, and back: nothing is lost on the way."""

from datetime import datetime
from typing import Any

from perdure.middleware.persistence.archive.sharing import Shared
from perdure.middleware.persistence.turn import (
    Answer,
    ConversationSummary,
    JsonObject,
    Outcome,
    StoredFile,
    Turn,
)

__all__ = ["conversation_line", "conversation_of", "shared_of", "turn_line", "turn_of"]


def conversation_line(line: ConversationSummary, shared: Shared | None) -> JsonObject:
    """`shared`: what it has from a conversation before it. Only the turns after that follow the line."""
    told: JsonObject = {
        "kind": "conversation",
        "user_id": line.principal,
        "continuation_id": line.continuation_id,
        "turns": line.turns,
        "minted": line.minted,
        "created_at": line.created_at.isoformat(),
        "updated_at": line.updated_at.isoformat(),
        "expires_at": line.expires_at and line.expires_at.isoformat(),
    }
    if shared is not None:
        told["forked_from"] = {"continuation_id": shared.continuation_id, "place": shared.place}
    return told


def shared_of(line: JsonObject) -> Shared | None:
    shared = line.get("forked_from")
    return Shared(shared["continuation_id"], shared["place"]) if shared else None


def conversation_of(line: JsonObject) -> ConversationSummary:
    return ConversationSummary(
        principal=line["user_id"],
        continuation_id=line["continuation_id"],
        turns=line["turns"],
        minted=line["minted"],
        created_at=datetime.fromisoformat(line["created_at"]),
        updated_at=datetime.fromisoformat(line["updated_at"]),
        # Archives of before had no end to tell of.
        expires_at=datetime.fromisoformat(end) if (end := line.get("expires_at")) else None,
    )


def turn_line(turn: Turn, files: list[StoredFile]) -> JsonObject:
    answer = turn.answer
    return {
        "kind": "turn",
        "turn_id": turn.id,
        "place": turn.place,
        "tool": turn.tool,
        "prompt": turn.prompt,
        "arguments": turn.arguments,
        "started_at": turn.started_at.isoformat(),
        "lease_until": turn.lease_until.isoformat(),
        "outcome": turn.outcome.value,
        "answer": answer and {"text": answer.text, "result": answer.result, "error": answer.error},
        "ended_at": turn.ended_at and turn.ended_at.isoformat(),
        "after_place": turn.after_place,
        "deferred": turn.deferred,
        "tokens": turn.tokens,
        "digest": turn.digest,
        "metadata": turn.metadata,
        "files": [
            {
                "name": file.name,
                "version": file.version,
                "bucket": file.bucket,
                "key": file.key,
                "sha256": file.sha256,
                "size": file.size,
                "media_type": file.media_type,
            }
            for file in files
        ],
    }


def turn_of(line: JsonObject, conversation: ConversationSummary, bucket: str) -> Turn:
    """The turn as a store takes it. Its files are kept in `bucket` from now on, under the keys that they had."""
    answer: Any = line["answer"]
    return Turn(
        id=line["turn_id"],
        principal=conversation.principal,
        continuation_id=conversation.continuation_id,
        minted=conversation.minted,
        tool=line["tool"],
        prompt=line["prompt"],
        arguments=line["arguments"],
        started_at=datetime.fromisoformat(line["started_at"]),
        lease_until=datetime.fromisoformat(line["lease_until"]),
        outcome=Outcome(line["outcome"]),
        answer=answer and Answer(text=answer["text"], result=answer["result"], error=answer["error"]),
        ended_at=datetime.fromisoformat(line["ended_at"]) if line["ended_at"] else None,
        place=line["place"],
        after_place=line["after_place"],
        deferred=line["deferred"],
        tokens=line["tokens"],
        digest=line["digest"],
        metadata=line["metadata"],
        files=tuple(
            StoredFile(
                key=file["key"],
                bucket=bucket,
                name=file["name"],
                sha256=file["sha256"],
                size=file["size"],
                media_type=file["media_type"],
                version=file["version"],
            )
            for file in line["files"]
        ),
        stored_form=True,
    )
