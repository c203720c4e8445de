"""Finds local paths in a tool's result and storage URIs in its arguments, and puts others in their places.

Pure: nothing here touches the file system. A value counts only as a whole, so that no sentence is ever cut up; prose is
searched only where the policy says so. All of it runs in time linear in the size of the value.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from perdure.middleware.persistence.turn import Json, JsonObject

__all__ = ["QuotedIn", "Replace", "local_path", "rewritten_result", "storage_uri"]

Replace: TypeAlias = Callable[[str], str | None]
"""Given a whole value, what to put in its place; None to leave it."""

QuotedIn: TypeAlias = Callable[[str], Iterable[tuple[int, int]]]
"""Where in a text something begins and ends that is only repeated there."""

_LONGEST_PATH = 4096
"""PATH_MAX of Linux, in bytes with the terminating NUL; a longer string names no file."""

_LONGEST_URI = 3 * _LONGEST_PATH

_NOT_IN_URIS = frozenset("\t\n\r")

# Compiled when a text may name a file first.
_JSON_STRING = r'(?s)"(?:[^"\\]|\\.)*+"(\s*+:)?'

# A path in prose: it starts where a word starts, and ends before what ends a sentence.
_PATH_IN_PROSE = r"(?<![\w/.~:-])(?:file://)?/[^\s\"'`<>|()\[\]{},;]+"

_STORAGE_URI = r"storage://\S+"
"""Whatever follows: one that names no file of ours is refused, and never reaches a tool as if it were a path."""


def local_path(value: str) -> str | None:
    """The absolute path that `value` is, or that it names as a `file://` URI (RFC 8089); None if it is neither.

    Surrogates stand for bytes that are not UTF-8, as in `os.fsdecode`.
    """
    if value.startswith("/"):
        path: str | None = value if len(value) < _LONGEST_PATH else None
    elif value[:7].lower() == "file://" and len(value) < _LONGEST_URI:
        path = _path_of_uri(value)
    else:
        return None
    if path is None or path.startswith("//") or "\0" in path or "\n" in path or "\r" in path:
        return None  # A UNC path, or nothing that a tool would call a file.
    return path


def storage_uri(value: str) -> str | None:
    """The storage URI that `value` is, possibly in quotes, as models copy it from JSON; None if it is none."""
    if "storage://" not in value[:20] or len(value) > _LONGEST_URI:
        return None
    bare = value.strip().strip('"')
    return bare if re.fullmatch(_STORAGE_URI, bare) else None


def rewritten_result(
    result: JsonObject, replace: Replace, *, prose: bool, quoted_in: QuotedIn = lambda _: ()
) -> JsonObject:
    """`result`, a `CallToolResult` on the wire, with every whole value for which `replace` has another.

    In prose, what `quoted_in` finds is left as it is.
    """

    def in_prose(text: str) -> str:
        return _prose(text, replace, quoted_in(text)) if prose else text

    changed = dict(result)
    if isinstance(content := result.get("content"), list):
        changed["content"] = [_block(block, replace, in_prose) for block in content]
    if "structuredContent" in result:
        changed["structuredContent"] = _values(result["structuredContent"], lambda text: _text(text, replace, in_prose))
    return changed


def _block(block: Json, replace: Replace, in_prose: Callable[[str], str]) -> Json:
    match block:
        case {"type": "text", "text": str(text)}:
            return {**block, "text": _text(text, replace, in_prose)}
        case {"type": "resource_link", "uri": str(uri)}:
            return {**block, "uri": _whole(uri, replace)}
        case {"type": "resource", "resource": {"uri": str(uri)}}:
            return {**block, "resource": {**block["resource"], "uri": _whole(uri, replace)}}
        case _:
            return block


def _text(text: str, replace: Replace, in_prose: Callable[[str], str]) -> str:
    whole = _whole(text, replace)
    if whole is not text:
        return whole
    stripped = text.strip()
    if stripped is not text and (replaced := _whole(stripped, replace)) is not stripped:
        return text.replace(stripped, replaced, 1)
    if stripped[:1] in ("{", "[", '"') and _is_json(stripped):
        return re.sub(_JSON_STRING, lambda literal: _literal(literal, replace), text)
    return in_prose(text)


def _prose(text: str, replace: Replace, quoted: Iterable[tuple[int, int]]) -> str:
    """`text` with the paths in it replaced, but for those between the places of `quoted`."""
    changed: list[str] = []
    at = 0
    for start, end in quoted:
        changed += re.sub(_PATH_IN_PROSE, lambda found: _in_prose(found[0], replace), text[at:start]), text[start:end]
        at = end
    return "".join([*changed, re.sub(_PATH_IN_PROSE, lambda found: _in_prose(found[0], replace), text[at:])])


def _values(value: Json, rewrite: Callable[[str], str]) -> Json:
    match value:
        case str():
            return rewrite(value)
        case dict():
            return {name: _values(item, rewrite) for name, item in value.items()}
        case list():
            return [_values(item, rewrite) for item in value]
        case _:
            return value


def _whole(value: str, replace: Replace) -> str:
    if len(value) >= _LONGEST_URI:
        return value
    replaced = replace(value)
    return value if replaced is None else replaced


def _literal(literal: "re.Match[str]", replace: Replace) -> str:
    """One string of a JSON text, in the text's own formatting. The names of members stay."""
    if literal[1] is not None or len(literal[0]) > 2 * _LONGEST_URI:
        return literal[0]
    value: str = json.loads(literal[0], strict=False)
    replaced = _whole(value, replace)
    return literal[0] if replaced is value else json.dumps(replaced)


def _in_prose(found: str, replace: Replace) -> str:
    bare = found.rstrip(".!?:")
    return _whole(bare, replace) + found[len(bare) :]


def _is_json(text: str) -> bool:
    try:
        # Of numbers only that they are some: Python refuses to read those of more than 4,300 digits.
        json.loads(text, parse_int=len)
    except (ValueError, RecursionError):
        return False
    return True


def _path_of_uri(uri: str) -> str | None:
    if not _NOT_IN_URIS.isdisjoint(uri):
        return None  # urlsplit drops them, and would so name another file.
    try:
        parts = urlsplit(uri)
        path = unquote_to_bytes(parts.path)
    except ValueError:
        return None  # It is no URI, or has characters that are none.
    if parts.netloc.lower() not in ("", "localhost") or parts.query or parts.fragment or not parts.path.startswith("/"):
        return None  # Another machine's file is not ours to read.
    return path.decode("utf-8", "surrogateescape") if len(path) < _LONGEST_PATH else None
