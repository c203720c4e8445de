"""Puts a conversation's id in the place of one that a tool made itself, in the tool's result.

Pure, on the wire form of a `CallToolResult`. A path is the names of members, from the outside in; in an array, the
number of an element. It is followed

- in every text that is JSON as a whole: of a text block, of an embedded resource;
- in structured content; and within its member `result` where that is the only one, since SDKs wrap there what is no
  object.

What stands at a path is an id if it is a string, and not an empty one. Only its characters change: a JSON text is never
parsed and written anew. The same id elsewhere in the result, as in "Use continuation_id: …", would lead a client astray
as well. It is replaced where it stands as a word of its own, and is too long to stand there by chance.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from perdure.middleware.persistence.turn import Json, JsonObject
from perdure.quick_values import frozen

__all__ = ["ResultIds"]

Path: TypeAlias = tuple[str, ...]

Replace: TypeAlias = Callable[[str], str]

_CHANCE_IS_EXCLUDED = 16
"""Characters: half a UUID. A shorter id may be a word that means something else in prose."""

# No word begins or ends in the middle of a path, of a host's name or of another id. The line breaks are those of JSON.
_WORD = r"(?:(?<![\w/.-])|(?<=\\[nrt]))(?:{})(?![\w/-]|\.\w)"


class _Literal(NamedTuple):
    """A string within a JSON text: where its characters begin and end between the quotes, and what they say."""

    start: int
    end: int
    value: str


@frozen()
class ResultIds:
    """Where a result has ids of the tool's own."""

    paths: tuple[Path, ...]
    """Of the policy's `id_path`."""

    @classmethod
    def at(cls, id_path: Sequence[str]) -> "ResultIds":
        """`id_path` has one path a string, its names with dots between them: `continuation_offer.continuation_id`."""
        return cls(tuple(tuple(path.split(".")) for path in id_path))

    def are_in_text_of(self, result: JsonObject) -> bool:
        """Whether a client that shows its model the text blocks shows it an id."""
        texts = [block["text"] for block in result.get("content") or () if block.get("type") == "text"]
        return any(_literals(text, self.paths) for text in texts)

    def replaced(self, result: JsonObject, continuation_id: str) -> JsonObject:
        """`result` with `continuation_id` in place of the tool's own; the same object if there is none."""
        own = frozenset(self._own(result)) - {continuation_id}
        if not own:
            return result
        changed = dict(result)
        if isinstance(blocks := result.get("content"), list):
            in_text = _text_replacing(self.paths, own, continuation_id)
            changed["content"] = [_with_text(block, in_text) for block in blocks]
        if "structuredContent" in result:
            changed["structuredContent"] = _structured(result["structuredContent"], self.paths, own, continuation_id)
        return changed

    def _own(self, result: JsonObject) -> Iterator[str]:
        for text in _texts(result):
            yield from (literal.value for literal in _literals(text, self.paths) or ())
        structured = result.get("structuredContent")
        yield from _values(structured, self.paths)
        match structured:
            case {"result": str(text), **rest} if not rest:
                yield from (literal.value for literal in _literals(text, self.paths) or ())
            case {"result": inner, **rest} if not rest:
                yield from _values(inner, self.paths)


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _texts(result: JsonObject) -> Iterator[str]:
    for block in result.get("content") or ():
        match block:
            case {"type": "text", "text": str(text)} | {"type": "resource", "resource": {"text": str(text)}}:
                yield text


def _with_text(block: Json, replace: Replace) -> Json:
    match block:
        case {"type": "text", "text": str(text)}:
            return {**block, "text": replace(text)}
        case {"type": "resource", "resource": {"text": str(text)}}:
            return {**block, "resource": {**block["resource"], "text": replace(text)}}
        case _:
            return block


# ── structured content ───────────────────────────────────────────────────────────────────────────────────────────


def _structured(value: Json, paths: tuple[Path, ...], own: frozenset[str], new: str) -> Json:
    in_prose = _prose_replacing(own, new)
    match value:
        case {"result": str(text), **rest} if not rest and () not in _below(paths, "result"):
            return {"result": _text_replacing(paths, own, new)(text)}
        case {"result": inner, **rest} if not rest:
            return {"result": _value(inner, paths + _below(paths, "result"), in_prose, new)}
        case _:
            return _value(value, paths, in_prose, new)


def _values(value: Json, paths: tuple[Path, ...]) -> Iterator[str]:
    """The strings of `value` at `paths`."""
    match value:
        case str() if () in paths and value:
            yield value
        case dict() | list() if any(paths):
            for name, item in _items(value):
                yield from _values(item, _below(paths, name))


def _value(value: Json, paths: tuple[Path, ...], in_prose: Replace, new: str) -> Json:
    match value:
        case str():
            return new if () in paths and value else in_prose(value)
        case dict():
            return {in_prose(name): _value(item, _below(paths, name), in_prose, new) for name, item in value.items()}
        case list():
            return [_value(item, _below(paths, name), in_prose, new) for name, item in _items(value)]
        case _:
            return value


def _items(value: "dict[str, Json] | list[Json]") -> "Iterator[tuple[str, Json]]":
    if isinstance(value, dict):
        yield from value.items()
    else:
        yield from ((str(number), item) for number, item in enumerate(value))


def _below(paths: tuple[Path, ...], name: str) -> tuple[Path, ...]:
    """What is left of those of `paths` that lead through `name`."""
    return tuple(path[1:] for path in paths if path and path[0] == name)


# ── JSON texts, and prose ────────────────────────────────────────────────────────────────────────────────────────


def _text_replacing(paths: tuple[Path, ...], own: frozenset[str], new: str) -> Replace:
    new_literal = _inside_of_literal(new)
    in_prose = _prose_replacing(own, new)
    in_json = _prose_replacing(frozenset(map(_inside_of_literal, own)), new_literal)

    def replace(text: str) -> str:
        literals = _literals(text, paths)
        if literals is None:
            return in_prose(text)
        pieces, at = [], 0
        for literal in literals:
            pieces += [in_json(text[at : literal.start]), new_literal]
            at = literal.end
        return "".join([*pieces, in_json(text[at:])])

    return replace


def _prose_replacing(own: frozenset[str], new: str) -> Replace:
    words = [word for word in sorted(own) if len(word) >= _CHANCE_IS_EXCLUDED]

    def replace(text: str) -> str:
        # Mostly there is nothing, and to see that is far cheaper than to make a pattern and look where it might begin.
        if not any(word in text for word in words):
            return text
        return re.sub(_WORD.format("|".join(map(re.escape, words))), lambda _: new, text)

    return replace


def _inside_of_literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


# Of numbers only that they are some: Python refuses to read those of more than 4,300 digits. Control characters within
# strings are no JSON, but some programs write them and some read them.
_JSON = json.JSONDecoder(parse_int=len, parse_float=len, strict=False)

_SPACE = re.compile(r"[ \t\n\r]*+")


def _literals(text: str, paths: tuple[Path, ...]) -> list[_Literal] | None:
    """The strings of a JSON text at `paths`, in their order; None if it is no JSON object or array."""
    start = _past_space(text, 0)
    if text[start : start + 1] not in ("{", "["):
        return None
    try:
        _JSON.decode(text)
    except (ValueError, RecursionError):
        return None
    found: list[_Literal] = []
    _past_value(text, start, paths, found)
    return found


def _past_value(text: str, at: int, paths: tuple[Path, ...], found: list[_Literal]) -> int:
    """The end of the value that begins at `at`. Only what lies on a path is looked into."""
    match text[at]:
        case "{" if any(paths):
            return _past_members(text, at, paths, found)
        case "[" if any(paths):
            return _past_elements(text, at, paths, found)
        case first:
            value, end = _JSON.raw_decode(text, at)
            if first == '"' and () in paths and value:
                found.append(_Literal(at + 1, end - 1, value))
            return end


def _past_members(text: str, at: int, paths: tuple[Path, ...], found: list[_Literal]) -> int:
    at = _past_space(text, at + 1)
    while text[at] != "}":
        name, at = _JSON.raw_decode(text, at)
        at = _past_space(text, _past_space(text, at) + 1)  # the colon
        at = _past_space(text, _past_value(text, at, _below(paths, name), found))
        if text[at] == ",":
            at = _past_space(text, at + 1)
    return at + 1


def _past_elements(text: str, at: int, paths: tuple[Path, ...], found: list[_Literal]) -> int:
    at = _past_space(text, at + 1)
    number = 0
    while text[at] != "]":
        at = _past_space(text, _past_value(text, at, _below(paths, str(number)), found))
        number += 1
        if text[at] == ",":
            at = _past_space(text, at + 1)
    return at + 1


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
