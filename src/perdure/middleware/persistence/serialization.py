"""How a message is kept: as text that people can read and every database can hold, beside an exact form.

`content` is readable. `body` is ASCII JSON that no database looks into, and wins on reading. The text, which mostly
stands in the exact form as well (a prompt among its arguments, an answer in `content` and `structuredContent`), is
kept once: `body` says where it belongs. Where all that `body` says is said beside most messages, it is a number.
"""

import json
from typing import NamedTuple

from perdure.middleware.persistence.common_bodies import of_arguments, of_prompt, of_result, shortened, written_out
from perdure.middleware.persistence.folded_json import FoldedJson, unfold
from perdure.middleware.persistence.json_text import compact_json, sorted_json
from perdure.middleware.persistence.short_hash import sha256_of
from perdure.middleware.persistence.text_answers import TextAnswer
from perdure.middleware.persistence.turn import Answer, Json, JsonObject

__all__ = [
    "Prompt",
    "StoredMessage",
    "answer_and_copy",
    "decode_answer",
    "decode_prompt",
    "digest",
    "encode_answer",
    "encode_prompt",
    "exact_json",
    "prompt_and_copies",
    "prompt_and_copy",
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
    return _encode(prompt, value, self_contained=self_contained)[0]


def prompt_and_copy(prompt: str, arguments: JsonObject) -> tuple[StoredMessage, JsonObject | None]:
    """As `encode_prompt`; beside it the arguments as they will be read again, a copy; None where only reading tells."""
    common = of_arguments(arguments, prompt) if len(prompt) >= _WORTH_FOLDING else None
    if common is not None and _storable(prompt) == prompt:
        return StoredMessage(prompt, common[0]), common[1]
    message, read = _encode(prompt, {"arguments": arguments})
    return message, read["arguments"] if read is not None else None


def prompt_and_copies(prompt: str, arguments: JsonObject, metadata: JsonObject) -> tuple[StoredMessage, Prompt | None]:
    """As `encode_prompt`; beside it all of that as it will be read again, copies; None where only reading tells."""
    common = of_prompt(arguments, metadata, prompt) if len(prompt) >= _WORTH_FOLDING else None
    if common is not None and _storable(prompt) == prompt:
        return StoredMessage(prompt, common[0]), Prompt(prompt, common[1], common[2])
    value = {"arguments": arguments, "metadata": metadata} if metadata else {"arguments": arguments}
    message, read = _encode(prompt, value)
    return message, Prompt(prompt, read["arguments"], read.get("metadata", {})) if read is not None else None


def decode_prompt(message: StoredMessage) -> Prompt:
    text, value = _decode(message)
    return Prompt(text, value.get("arguments", {}), value.get("metadata", {}))


def encode_answer(answer: Answer, *, self_contained: bool = False) -> StoredMessage:
    if self_contained:
        value = {"result": answer.result, "error": answer.error}
        return _encode(answer.text, value, self_contained=True)[0]
    return answer_and_copy(answer)[0]


def answer_and_copy(answer: Answer) -> tuple[StoredMessage, Answer | None]:
    """As `encode_answer`; beside it the answer as it will be read again, a copy; None where only reading tells."""
    text, result, error = answer.text, answer.result, answer.error
    common = of_result(result, text) if error is None and len(text) >= _WORTH_FOLDING else None
    if common is not None and _storable(text) == text:
        return StoredMessage(text, common[0]), TextAnswer(text, common[1])
    message, read = _encode(text, {"result": result, "error": error})
    return message, Answer(text=text, result=read["result"], error=read["error"]) if read is not None else None


def decode_answer(message: StoredMessage) -> Answer:
    text, value = _decode(message)
    return Answer(text=text, result=value.get("result"), error=value.get("error"))


def digest(tool: str, arguments: JsonObject) -> str:
    """SHA-256 over tool and arguments, the order of keys apart."""
    return sha256_of(sorted_json([tool, arguments]).encode("ascii"))


def exact_json(value: Json) -> str:
    """JSON text in ASCII: NUL and lone surrogates as escapes, key order kept."""
    return compact_json(value)


def readable_json(value: Json) -> Json:
    """`value` as a `jsonb` column can hold it: for people to read and filter by, not the exact form."""
    if isinstance(value, str):  # not `match`, which takes four times as long
        return _storable(value)
    if isinstance(value, dict):
        return {_storable(key): readable_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [readable_json(item) for item in value]
    return value


def _encode(text: str, value: JsonObject, *, self_contained: bool = False) -> tuple[StoredMessage, JsonObject | None]:
    """Beside the message, `value` as it will be read again, where that is sure."""
    content = _storable(text)
    if content != text and not self_contained:
        return StoredMessage(content, compact_json({"value": value, "text": text})), None
    folded = FoldedJson(value, text if len(text) >= _WORTH_FOLDING else None)
    whole = {"value": folded.value}
    if folded.places:
        whole["at"] = folded.places
    if self_contained:
        return StoredMessage(content, compact_json({**whole, "text": text})), None
    body = compact_json(whole)
    if not folded.is_plain or _ESCAPED_SURROGATE in body:
        return StoredMessage(content, shortened(body)), None
    unfold(folded.value, text, folded.places)
    return StoredMessage(content, shortened(body)), folded.value


_ESCAPED_SURROGATE = "\\ud"
"""Two that stand side by side are read as one character, whatever they were."""


def _decode(message: StoredMessage) -> tuple[str, JsonObject]:
    if message.body is None:
        return message.content, {}
    body = json.loads(written_out(message.body))
    text = body.get("text", message.content)
    value = body["value"]
    unfold(value, text, body.get("at", ()))
    return text, value


def _storable(text: str) -> str:
    """`text` with NUL and lone surrogates, which Postgres and UTF-8 refuse, as U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    if "\0" in text:
        text = text.replace("\0", "�")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
