"""What a line of an archive has to be. It may come from anywhere, and is looked at before anything is imported."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from perdure.middleware.persistence.turn import Json, JsonObject, Outcome

__all__ = ["fault_of"]

_Shape: TypeAlias = Callable[[Any], bool]

_LONGEST_ID = 200
_LARGEST_COUNT = (1 << 31) - 1
_LARGEST_SIZE = (1 << 63) - 1
_KEPT_OUTCOMES = {outcome.value for outcome in Outcome} - {Outcome.INTERRUPTED.value}
_HEX = frozenset("0123456789abcdef")


def fault_of(line: Json, *, is_first: bool) -> str | None:
    """What is wrong with it; None if nothing is. Fields that nobody asks for may be there."""
    if not isinstance(line, dict):
        return "it is no object"
    match line.get("kind"):
        case "conversation":
            return _fault(line, _CONVERSATION)
        case "turn" if is_first:
            return "a turn stands before its conversation"
        case "turn":
            return _fault(line, _TURN)
        case _:
            return "it is neither a conversation nor a turn"


def _fault(line: JsonObject, fields: Mapping[str, _Shape]) -> str | None:
    for name, fits in fields.items():
        if not fits(line.get(name)):
            return f"the field {name} is {'not what it has to be' if name in line else 'missing'}"
    return None


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _id(value: Any) -> bool:
    return _name(value) and len(value) <= _LONGEST_ID


def _true_or_false(value: Any) -> bool:
    return isinstance(value, bool)


def _number(least: int, most: int) -> _Shape:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _outcome(value: Any) -> bool:
    return isinstance(value, str) and value in _KEPT_OUTCOMES


def _sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and _HEX.issuperset(value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _maybe(fits: _Shape) -> _Shape:
    return lambda value: value is None or fits(value)


def _with(fields: Mapping[str, _Shape]) -> _Shape:
    return lambda value: isinstance(value, dict) and _fault(value, fields) is None


def _each(fits: _Shape) -> _Shape:
    return lambda value: isinstance(value, list) and all(map(fits, value))


_count = _number(0, _LARGEST_COUNT)
_place = _number(1, _LARGEST_COUNT)

_CONVERSATION: Mapping[str, _Shape] = {
    "user_id": _name,
    "continuation_id": _id,
    "turns": _count,
    "minted": _true_or_false,
    "created_at": _time,
    "updated_at": _time,
    "expires_at": _maybe(_time),
    "forked_from": _maybe(_with({"continuation_id": _id, "place": _place})),
}

_FILE: Mapping[str, _Shape] = {
    "name": _name,
    "version": _place,
    "bucket": _name,
    "key": _name,
    "sha256": _sha256,
    "size": _number(0, _LARGEST_SIZE),
    "media_type": _text,
}

_TURN: Mapping[str, _Shape] = {
    "turn_id": _name,
    "place": _place,
    "tool": _text,
    "prompt": _text,
    "arguments": _object,
    "started_at": _time,
    "lease_until": _time,
    "outcome": _outcome,
    "answer": _maybe(_with({"text": _text, "result": lambda _: True, "error": _maybe(_object)})),
    "ended_at": _maybe(_time),
    "after_place": _maybe(_count),
    "deferred": _true_or_false,
    "tokens": _count,
    "digest": _text,
    "metadata": _object,
    "files": _each(_with(_FILE)),
}
