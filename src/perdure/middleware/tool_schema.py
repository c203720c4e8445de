"""What perdure changes in a tool's entry of `tools/list`, and what a schema allows.

Everything here works on the wire form (`inputSchema`, `outputSchema`), as JSON Schema 2020-12.
"""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from perdure.middleware.persistence.turn import Json, JsonObject
from perdure.settings import Announce, Policy

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

__all__ = [
    "CONTINUATION_ID",
    "accepts",
    "amended",
    "continuation_id_schema",
    "declares_continuation_id",
    "has_added_id",
    "is_stray_id",
    "satisfies",
    "takes_continuation_id",
    "without_added_id",
]

CONTINUATION_ID = "continuation_id"

_DESCRIPTION = "Continues an earlier conversation: the id that an earlier result gave. Leave it out to start a new one."

_OUTPUT_DESCRIPTION = "Pass this to a later call to continue the conversation."

_SAYS_NOTHING_OF_VALUES = frozenset({"type", "title", "description", "default", "examples", "deprecated"})

# With one of these at its root, a schema may refuse a further property for reasons that lie elsewhere in it.
_MAY_REFUSE_PROPERTIES = frozenset(
    {
        "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "const", "enum", "maxProperties",
        "patternProperties", "propertyNames", "unevaluatedProperties", "dependentSchemas",
        "dependentRequired", "dependencies",
    }
)  # fmt: skip


def continuation_id_schema() -> JsonObject:
    """The one property that a persisted tool's input schema gains."""
    return {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "default": None,
        "description": _DESCRIPTION,
        "title": "Continuation Id",
    }


def declares_continuation_id(schema: Mapping[str, Any] | None) -> bool:
    """Whether `schema` has the property, by whoever's hand."""
    properties = (schema or {}).get("properties")
    return isinstance(properties, Mapping) and CONTINUATION_ID in properties


def amended(tool: JsonObject, policy: Policy) -> JsonObject:
    """The entry of a persisted tool: as it was, and the continuation id in both schemas where it can stand."""
    amendments: JsonObject = {}
    input_schema = tool.get("inputSchema")
    if isinstance(input_schema, dict) and not declares_continuation_id(input_schema):
        amendments["inputSchema"] = _with_property(input_schema, continuation_id_schema())
    output_schema = tool.get("outputSchema")
    if Announce.STRUCTURED in policy.announce and isinstance(output_schema, dict) and _can_be_widened(output_schema):
        amendments["outputSchema"] = _with_property(
            output_schema, {"type": "string", "title": "Continuation Id", "description": _OUTPUT_DESCRIPTION}
        )
    return {**tool, **amendments}


def has_added_id(tool: JsonObject) -> bool:
    """Whether the entry's input schema has the property as perdure adds it, and not one of the tool's own."""
    input_schema = tool.get("inputSchema")
    properties = input_schema.get("properties") if isinstance(input_schema, dict) else None
    return isinstance(properties, dict) and properties.get(CONTINUATION_ID) == continuation_id_schema()


def without_added_id(tool: JsonObject) -> JsonObject:
    """The entry as it was before the property was added to its input schema."""
    if not has_added_id(tool):
        return tool
    properties = {name: schema for name, schema in tool["inputSchema"]["properties"].items() if name != CONTINUATION_ID}
    return {**tool, "inputSchema": {**tool["inputSchema"], "properties": properties}}


def is_stray_id(schema: Mapping[str, Any] | None, *, was_on: bool) -> bool:
    """Whether an id that is sent to a tool that is switched off is one of ours, which the tool would not know.

    It is if the tool was on before in this process, or would refuse it: a client remembers ids for longer than we do.
    """
    closed = (schema or {}).get("additionalProperties", True) is not True
    return (was_on or closed) and not declares_continuation_id(schema)


def takes_continuation_id(output_schema: Mapping[str, Any] | None, *, widened: bool) -> bool:
    """Whether structured content may carry the id: the client will hold it against `output_schema`.

    `widened` says that the client is shown the schema as `amended` makes it.
    """
    if output_schema is None:
        return True
    if declares_continuation_id(output_schema):
        return False  # The tool has an id of its own there.
    if widened:
        return _can_be_widened(output_schema)
    return _is_plain_object(output_schema) and output_schema.get("additionalProperties", True) is True


def accepts(schema: Mapping[str, Any] | None, text: str) -> bool:
    """Whether an argument's schema lets `text` stand there."""
    if schema is None or _SAYS_NOTHING_OF_VALUES.issuperset(schema):
        return True
    return satisfies(schema, text)


def satisfies(schema: Mapping[str, Any], value: Json) -> bool:
    """Whether `schema` admits `value`."""
    validator = _validator()
    try:
        return bool(validator(schema).is_valid(value))
    except Exception:  # noqa: BLE001 - a schema that cannot be evaluated admits nothing
        return False


@cache
def _validator() -> "type[Draft202012Validator]":
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - 20 ms, and most schemas are plain

    return Draft202012Validator


def _can_be_widened(schema: Mapping[str, Any]) -> bool:
    return _is_plain_object(schema) and not declares_continuation_id(schema)


def _is_plain_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object" and _MAY_REFUSE_PROPERTIES.isdisjoint(schema)


def _with_property(schema: JsonObject, definition: JsonObject) -> JsonObject:
    return {**schema, "properties": {**schema.get("properties", {}), CONTINUATION_ID: definition}}
