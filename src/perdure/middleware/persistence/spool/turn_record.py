"""A whole turn as one line of ASCII JSON, and back: nothing is lost between."""

import json
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from perdure.errors import StoreError
from perdure.middleware.persistence.serialization import exact_json
from perdure.middleware.persistence.turn import Answer, JsonObject, Outcome, StoredFile, Turn

__all__ = ["read_turn", "write_file", "write_turn"]

_TIMES = ("started_at", "lease_until", "ended_at")


def write_turn(turn: Turn) -> str:
    """
    Raises:
        StoreError: It holds what cannot be written down.
    """
    record = _plain(turn)
    for name in _TIMES:
        record[name] = record[name] and record[name].isoformat()
    record["expire_after"] = turn.expire_after and turn.expire_after.total_seconds()
    record["answer"] = turn.answer and _plain(turn.answer)
    record["files"] = [_plain(replace(file, created_at=None)) for file in turn.files]
    try:
        return exact_json(record)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"The turn {turn.id} holds something that cannot be written down ({error}).",
            remedy="look at what the tool was given and what it gave back.",
        ) from error


def read_turn(text: str) -> Turn:
    """
    Raises:
        ValueError, TypeError, KeyError: It is no record of a turn that this perdure knows.
    """
    record = json.loads(text)
    for name in _TIMES:
        record[name] = record[name] and datetime.fromisoformat(record[name])
    record["expire_after"] = record["expire_after"] and timedelta(seconds=record["expire_after"])
    record["outcome"] = Outcome(record["outcome"])
    record["answer"] = record["answer"] and Answer(**record["answer"])
    record["files"] = tuple(StoredFile(**file) for file in record["files"])
    return Turn(**record)


def write_file(file: StoredFile) -> str:
    return exact_json(_plain(replace(file, created_at=None)))


def _plain(value: Turn | Answer | StoredFile) -> JsonObject:
    found: dict[str, Any] = {field.name: getattr(value, field.name) for field in fields(value)}
    return found
