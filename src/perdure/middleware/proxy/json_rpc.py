"""JSON-RPC messages as they are on the wire: read for what a proxy must know, and written again without loss.

A message that perdure does not change is passed on as the bytes it came in. One that it changes is written anew, with
its fields in their order, those that nobody knows yet among them, and each number to its last digit.
"""

import json
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from perdure.middleware.persistence.turn import Json, JsonObject

__all__ = [
    "CONNECTION_CLOSED",
    "INVALID_PARAMS",
    "METHOD_NOT_FOUND",
    "Key",
    "Message",
    "Unreadable",
    "error_response",
    "key_of",
    "message_of",
    "read",
    "response",
]

Key: TypeAlias = Hashable

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
CONNECTION_CLOSED = -32000
"""What the SDKs answer with where the other side is gone."""


class Unreadable(ValueError):
    """These bytes are no JSON."""


@dataclass(frozen=True)
class Message:
    raw: bytes
    """The JSON text, without the end of the line."""
    value: Json
    """An object; or an array of objects, in protocol versions that have batches."""

    @cached_property
    def body(self) -> JsonObject:
        """Empty where the message is no object."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def method(self) -> str | None:
        method = self.body.get("method")
        return method if isinstance(method, str) else None

    @property
    def is_request(self) -> bool:
        return self.method is not None and "id" in self.body

    @property
    def is_response(self) -> bool:
        return self.method is None and "id" in self.body

    @property
    def key(self) -> Key:
        return key_of(self.body.get("id"))

    @property
    def params(self) -> JsonObject:
        params = self.body.get("params")
        return params if isinstance(params, dict) else {}

    @property
    def meta(self) -> JsonObject:
        meta = self.params.get("_meta")
        return meta if isinstance(meta, dict) else {}

    def changed(self, **fields: Json) -> "Message":
        return message_of({**self.body, **fields})


def read(raw: bytes) -> Message:
    """
    Raises:
        Unreadable: `raw` is no JSON in UTF-8.
        RecursionError: It is nested more deeply than Python reads.
    """
    raw = raw.strip()
    try:
        return Message(raw, json.loads(raw.decode("utf-8"), parse_float=_float, parse_int=_int))
    except ValueError as error:
        raise Unreadable(str(error)) from error


def message_of(value: Json) -> Message:
    return Message(_written(value), value)


def response(id_: Json, result: JsonObject) -> Message:
    return message_of({"jsonrpc": "2.0", "id": id_, "result": result})


def error_response(id_: Json, code: int, text: str, data: JsonObject | None = None) -> Message:
    error: JsonObject = {"code": code, "message": text}
    return message_of({"jsonrpc": "2.0", "id": id_, "error": error if data is None else {**error, "data": data}})


def key_of(id_: Json) -> Key:
    """What two spellings of one id have in common: 1 and 1.0 are one number; "1" and true are others."""
    match id_:
        case bool() | None:
            return (type(id_), id_)
        case _Spelt():
            return id_.text
        case int() | float() | str():
            return id_
        case _:
            return json.dumps(id_)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Spelt(float):
    """A number that Python's own cannot hold as it was written: 1e999, or thirty digits after the point."""

    text: str


_ALWAYS_EXACT = 16
"""A float of so many characters has at most 15 digits, and comes back as the same number."""

_LONGEST_INT = 4000
"""Digits. Above 4,300 Python refuses to read or write it."""


def _float(text: str) -> float:
    number = float(text)
    if len(text) <= _ALWAYS_EXACT and "e" not in text and "E" not in text:
        return number
    if repr(number) == text:
        return number
    return _spelt(text)


def _int(text: str) -> Any:
    return int(text) if len(text) <= _LONGEST_INT and text != "-0" else _spelt(text)


def _spelt(text: str) -> _Spelt:
    number = _Spelt(text)
    number.text = text
    return number


def _written(value: Json) -> bytes:
    """In ASCII: some readers take U+2028 for the end of a line."""
    text = _spelling_out(value) if _has_spelt(value) else json.dumps(value, separators=(",", ":"))
    return text.encode("ascii")


def _has_spelt(value: Json) -> bool:
    match value:
        case dict():
            return any(_has_spelt(item) for item in value.values())
        case list():
            return any(_has_spelt(item) for item in value)
        case _:
            return isinstance(value, _Spelt)


def _spelling_out(value: Json) -> str:
    match value:
        case _Spelt():
            return value.text
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{_spelling_out(item)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_spelling_out, value)) + "]"
        case _:
            return json.dumps(value)
