"""What class-based tools of low-level servers take and give: values that no SDK has defined.

The forms met in the field: a `CallToolResult`, a list of content blocks, a pair of such a list and structured content,
structured content alone, or text.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from perdure.middleware.announcement import announcement_block
from perdure.middleware.persisted_call import PersistedCall
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk import sdk
from perdure.settings import Announce

__all__ = ["announced_value", "schema_of", "tool_name_of", "wire_of"]

_SCHEMAS = ("get_input_schema", "input_schema", "inputSchema")
_NAMES = ("name", "get_name")
_SAYS_NOTHING = frozenset({"execute", "run", "call", "invoke", "__call__", "handle"})


def wire_of(value: object) -> JsonObject:
    """`value` as the `CallToolResult` it stands for, for the record."""
    match value:
        case str():
            return {"content": [{"type": "text", "text": value}]}
        case (list() as blocks, Mapping() as structured):
            return {"content": [_block(block) for block in blocks], "structuredContent": dict(structured)}
        case list() | tuple():
            return {"content": [_block(block) for block in value]}
        case Mapping():
            return {"content": [], "structuredContent": sdk.jsonable(dict(value))}
        case None:
            return {"content": []}
        case _ if sdk.is_result(value):
            return sdk.to_wire(value)
        case _:
            return {"content": [_block(value)]}


def announced_value(value: object, call: PersistedCall) -> object:
    """`value` with the continuation id in it, if it is of a kind that has room for one."""
    if call.policy.id_path:
        return _with_id_in_place(value, call)
    if sdk.is_result(value):
        return sdk.result_from_wire(call.announce(sdk.to_wire(value)))
    if Announce.TEXT not in call.policy.announce:
        return value
    block = sdk.text_block(announcement_block(call.kept.turn.continuation_id)["text"])
    match value:
        case (list() as blocks, Mapping() as structured) if _are_blocks(blocks):
            return [*blocks, block], structured
        case list() as blocks if _are_blocks(blocks):
            return [*blocks, block]
        case _:
            return value


def _with_id_in_place(value: object, call: PersistedCall) -> object:
    """`value`, in which the tool has put an id of its own, with the conversation's."""
    wire = call.announce(wire_of(value))
    match value:
        case str():
            return wire["content"][0]["text"]
        case (list() as blocks, Mapping()) if _are_blocks(blocks):
            return _blocks(wire), wire["structuredContent"]
        case list() as blocks if _are_blocks(blocks):
            return _blocks(wire)
        case Mapping():
            return wire["structuredContent"]
        case _ if sdk.is_result(value):
            return sdk.result_from_wire(wire)
        case _:
            return value


def _blocks(wire: JsonObject) -> object:
    return cast("Any", sdk.result_from_wire(wire)).content


def schema_of(owner: object) -> Mapping[str, Any] | None:
    """The input schema of a class-based tool, where it keeps one under a usual name."""
    for name in _SCHEMAS:
        found = getattr(owner, name, None)
        found = found() if callable(found) else found
        if isinstance(found, Mapping):
            return found
    return None


def tool_name_of(owner: object, handler_name: str) -> str:
    """The name under which a class-based tool is called, as far as it can be told from the tool itself."""
    for name in _NAMES:
        found = getattr(owner, name, None)
        found = found() if callable(found) else found
        if isinstance(found, str) and found:
            return found
    if owner is not None and handler_name in _SAYS_NOTHING:
        return type(owner).__name__
    return handler_name


def _are_blocks(values: list[Any]) -> bool:
    return all(sdk.is_block(value) for value in values)


def _block(value: object) -> JsonObject:
    if sdk.is_block(value):
        return sdk.to_wire(value)
    if isinstance(value, Mapping) and "type" in value:
        return dict(sdk.jsonable(value))
    text = value if isinstance(value, str) else json.dumps(sdk.jsonable(value), ensure_ascii=False)
    return {"type": "text", "text": text}
