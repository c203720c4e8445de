"""Walks a tool's arguments along their JSON Schema, to know of each text whether a URI is wanted there."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from perdure.middleware.persistence.turn import Json, JsonObject

__all__ = ["replaced_by_schema"]

_URI_FORMATS = frozenset({"uri", "uri-reference", "iri", "iri-reference"})

_DEEPEST = 50
"""References that a schema follows to itself."""


def replaced_by_schema(
    arguments: JsonObject, schema: Mapping[str, Any] | None, replace: Callable[[str, bool], str | None]
) -> JsonObject:
    """`arguments` with another text wherever `replace` has one.

    `replace` is given each whole text, and whether its place takes a URI: by the format in its schema, else by the name
    it stands under.
    """
    root = schema or {}

    def walk(value: Json, here: list[Mapping[str, Any]], name: str) -> Json:
        match value:
            case str():
                replaced = replace(value, _wants_uri(here, name))
                return value if replaced is None else replaced
            case dict():
                return {key: walk(item, _below(here, root, key), key) for key, item in value.items()}
            case list():
                return [walk(item, _below(here, root, None), name) for item in value]
            case _:
                return value

    changed: JsonObject = walk(arguments, list(_alternatives(root, root)), "")
    return changed


def _wants_uri(here: list[Mapping[str, Any]], name: str) -> bool:
    formats = {schema["format"] for schema in here if isinstance(schema.get("format"), str)}
    if formats:
        return not formats.isdisjoint(_URI_FORMATS)
    return _name_of_a_uri().search(name) is not None


@cache
def _name_of_a_uri() -> re.Pattern[str]:
    """Compiled when a call names a file first."""
    return re.compile(r"(?:^|[_-])(?i:ur[il]s?)$|[a-z](?:Ur[il]|UR[IL])s?$")


def _below(here: list[Mapping[str, Any]], root: Mapping[str, Any], key: str | None) -> list[Mapping[str, Any]]:
    """The schemas for the member `key`, or with None for the items of a list."""
    below: list[Mapping[str, Any]] = []
    for schema in here:
        if key is None:
            found = schema.get("items")
        else:
            found = (schema.get("properties") or {}).get(key, schema.get("additionalProperties"))
        if isinstance(found, Mapping):
            below += _alternatives(found, root)
    return below


def _alternatives(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """`schema` and all that it may stand for: what it refers to, and its branches."""
    if depth > _DEEPEST:
        return
    yield schema
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/$defs/"):
        target = (root.get("$defs") or {}).get(reference.removeprefix("#/$defs/"))
        if isinstance(target, Mapping):
            yield from _alternatives(target, root, depth + 1)
    for branches in (schema.get("anyOf"), schema.get("oneOf"), schema.get("allOf")):
        for branch in branches if isinstance(branches, list) else ():
            if isinstance(branch, Mapping):
                yield from _alternatives(branch, root, depth + 1)
