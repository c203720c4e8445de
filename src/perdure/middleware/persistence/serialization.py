"""How a message is kept: as text that people can read and every database can hold, beside an exact form.

`content` is readable. `body` is ASCII JSON that no database looks into, and wins on reading. The text, which mostly
stands in the exact form as well (a prompt among its arguments, an answer in `content` and `structuredContent`), is
kept once: `body` says where it belongs. Where all that `body` says is said beside most messages, it is a number.
"""

import hashlib
import json
from typing import NamedTuple

from perdure.middleware.persistence.common_bodies import shortened, written_out
from perdure.middleware.persistence.turn import Answer, Json, JsonObject

__all__ = [
    "Prompt",
    "StoredMessage",
    "decode_answer",
    "decode_prompt",
    "digest",
    "encode_answer",
    "encode_prompt",
    "exact_json",
    "readable_json",
]

_WORTH_FOLDING = 16
"""Characters. A shorter text costs less than saying where it belongs."""


class StoredMessage(NamedTuple):
    content: str
    body: str | None


class Prompt(NamedTuple):
    text: str
    arguments: JsonObject
    metadata: JsonObject


def encode_prompt(
    prompt: str, arguments: JsonObject, metadata: JsonObject | None = None, *, self_contained: bool = False
) -> StoredMessage:
    """`metadata` for a store without another exact place for it. `self_contained`: `body` is all that reading needs."""
    value = {"arguments": arguments, "metadata": metadata} if metadata else {"arguments": arguments}
    return _encode(prompt, value, self_contained=self_contained)


def decode_prompt(message: StoredMessage) -> Prompt:
    text, value = _decode(message)
    return Prompt(text, value.get("arguments", {}), value.get("metadata", {}))


def encode_answer(answer: Answer, *, self_contained: bool = False) -> StoredMessage:
    return _encode(answer.text, {"result": answer.result, "error": answer.error}, self_contained=self_contained)


def decode_answer(message: StoredMessage) -> Answer:
    text, value = _decode(message)
    return Answer(text=text, result=value.get("result"), error=value.get("error"))


def digest(tool: str, arguments: JsonObject) -> str:
    """SHA-256 over tool and arguments, the order of keys apart."""
    return hashlib.sha256(_sorted_json([tool, arguments]).encode("ascii")).hexdigest()


def exact_json(value: Json) -> str:
    """JSON text in ASCII: NUL and lone surrogates as escapes, key order kept."""
    return _compact_json(value)


# Made once: `json.dumps` makes an encoder for each text that is not in its own style.
_compact_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_sorted_json = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode


def readable_json(value: Json) -> Json:
    """`value` as a `jsonb` column can hold it: for people to read and filter by, not the exact form."""
    match value:
        case str():
            return _storable(value)
        case dict():
            return {_storable(key): readable_json(item) for key, item in value.items()}
        case list():
            return [readable_json(item) for item in value]
        case _:
            return value


def _encode(text: str, value: JsonObject, *, self_contained: bool) -> StoredMessage:
    content = _storable(text)
    if content != text and not self_contained:
        return StoredMessage(content, exact_json({"value": value, "text": text}))
    own = {"text": text} if self_contained else {}
    if len(text) < _WORTH_FOLDING:
        return StoredMessage(content, exact_json({"value": value, **own}))
    places: list[tuple[str | int, ...]] = []
    folded = _fold(value, text, (), places)
    body = exact_json({"value": folded, **({"at": places} if places else {}), **own})
    return StoredMessage(content, body if self_contained else shortened(body))


def _decode(message: StoredMessage) -> tuple[str, JsonObject]:
    if message.body is None:
        return message.content, {}
    body = json.loads(written_out(message.body))
    text = body.get("text", message.content)
    value = body["value"]
    for *path, last in body.get("at", ()):
        holder = value
        for key in path:
            holder = holder[key]
        holder[last] = text
    return text, value


def _fold(value: Json, text: str, path: tuple[str | int, ...], places: list[tuple[str | int, ...]]) -> Json:
    """`value` with None wherever it holds `text`; the paths to those go into `places`."""
    # Not `match`, which takes four times as long: this goes over all that a tool was given and gave back.
    if isinstance(value, str):
        if value == text:
            places.append(path)
            return None
        return value
    if isinstance(value, dict):
        return {key: _fold(item, text, (*path, key), places) for key, item in value.items()}
    if isinstance(value, list):
        return [_fold(item, text, (*path, index), places) for index, item in enumerate(value)]
    return value


def _storable(text: str) -> str:
    """`text` with NUL and lone surrogates, which Postgres and UTF-8 refuse, as U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", "�")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
