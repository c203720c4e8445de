# ruff: noqa: E501 - each stands as it is in a database
"""Bodies that stand beside nearly every message, word for word, and so are written as a number.

Of a turn with 2 KB of text they took a tenth of the disk. A number means the same for ever: databases hold it. A new
one may be added below; none may be changed or taken away.

The commonest are known by what they are of, before any JSON is written: that takes a quarter of the time.
"""

from collections.abc import Callable
from functools import partial

from perdure.middleware.persistence.turn import Json, JsonObject

__all__ = ["of_arguments", "of_prompt", "of_result", "shortened", "written_out"]

_BODIES = {
    # A prompt that is the tool's only argument; without and with what is told of the protocol.
    "1": '{"value":{"arguments":{"prompt":null}},"at":[["arguments","prompt"]]}',
    "2": '{"value":{"arguments":{"prompt":null},"metadata":{"protocol_version":"2025-06-18"}},"at":[["arguments","prompt"]]}',
    "3": '{"value":{"arguments":{"prompt":null},"metadata":{"protocol_version":"2025-11-25"}},"at":[["arguments","prompt"]]}',
    "4": '{"value":{"arguments":{"prompt":null},"metadata":{"protocol_version":"2026-07-28"}},"at":[["arguments","prompt"]]}',
    # A result of one text; and the same with that text in the structured content: as it is on the wire of each SDK.
    "5": '{"value":{"result":{"content":[{"type":"text","text":null}]},"error":null},"at":[["result","content",0,"text"]]}',
    "6": '{"value":{"result":{"content":[{"type":"text","text":null}],"structuredContent":{"result":null}},"error":null},'
    '"at":[["result","content",0,"text"],["result","structuredContent","result"]]}',
    "7": '{"value":{"result":{"content":[{"type":"text","text":null}],"isError":false},"error":null},'
    '"at":[["result","content",0,"text"]]}',
    "8": '{"value":{"result":{"content":[{"type":"text","text":null}],"structuredContent":{"result":null},"isError":false},'
    '"error":null},"at":[["result","content",0,"text"],["result","structuredContent","result"]]}',
    "9": '{"value":{"result":{"content":[{"type":"text","text":null}],"resultType":"complete"},"error":null},'
    '"at":[["result","content",0,"text"]]}',
    "10": '{"value":{"result":{"content":[{"type":"text","text":null}],"structuredContent":{"result":null},'
    '"resultType":"complete"},"error":null},"at":[["result","content",0,"text"],["result","structuredContent","result"]]}',
    # As mcp 2.x gives a result to what stands before its server; without and with structured content, in each era.
    "11": '{"value":{"result":{"content":[{"text":null,"type":"text"}]},"error":null},"at":[["result","content",0,"text"]]}',
    "12": '{"value":{"result":{"content":[{"text":null,"type":"text"}],"resultType":"complete"},"error":null},'
    '"at":[["result","content",0,"text"]]}',
    "13": '{"value":{"result":{"content":[{"text":null,"type":"text"}],"structuredContent":{"result":null}},"error":null},'
    '"at":[["result","content",0,"text"],["result","structuredContent","result"]]}',
    "14": '{"value":{"result":{"content":[{"text":null,"type":"text"}],"resultType":"complete",'
    '"structuredContent":{"result":null}},"error":null},"at":[["result","content",0,"text"],["result","structuredContent","result"]]}',
    # The same of fastmcp 4, decorated and installed.
    "15": '{"value":{"result":{"_meta":{"fastmcp":{"wrap_result":true}},"content":[{"type":"text","text":null}],'
    '"structuredContent":{"result":null},"resultType":"complete"},"error":null},'
    '"at":[["result","content",0,"text"],["result","structuredContent","result"]]}',
    "16": '{"value":{"result":{"_meta":{"fastmcp":{"wrap_result":true}},"content":[{"text":null,"type":"text"}],'
    '"resultType":"complete","structuredContent":{"result":null}},"error":null},'
    '"at":[["result","content",0,"text"],["result","structuredContent","result"]]}',
}

_NUMBERS = {body: number for number, body in _BODIES.items()}


_OF_ARGUMENTS = "1"
_WITH_PROTOCOL = {"2025-06-18": "2", "2025-11-25": "3", "2026-07-28": "4"}

_TYPE_FIRST, _TEXT_FIRST = ("type", "text"), ("text", "type")


def _result(names: tuple[str, ...], of_block: tuple[str, ...], text: str) -> JsonObject:
    """Of one text; `names` are its members, in their order, and `of_block` those of its only block."""
    block = {"type": "text", "text": text} if of_block is _TYPE_FIRST else {"text": text, "type": "text"}
    members = {
        "content": [block],
        "structuredContent": {"result": text},
        "isError": False,
        "resultType": "complete",
    }
    return {name: members[name] for name in names}


_OF_RESULTS: dict[tuple[str, ...], dict[tuple[str, ...], tuple[str, Callable[[str], JsonObject]]]] = {
    names: {of_block: (number, partial(_result, names, of_block)) for of_block, number in numbers.items()}
    for names, numbers in {
        ("content",): {_TYPE_FIRST: "5", _TEXT_FIRST: "11"},
        ("content", "structuredContent"): {_TYPE_FIRST: "6", _TEXT_FIRST: "13"},
        ("content", "isError"): {_TYPE_FIRST: "7"},
        ("content", "structuredContent", "isError"): {_TYPE_FIRST: "8"},
        ("content", "resultType"): {_TYPE_FIRST: "9", _TEXT_FIRST: "12"},
        ("content", "structuredContent", "resultType"): {_TYPE_FIRST: "10"},
        ("content", "resultType", "structuredContent"): {_TEXT_FIRST: "14"},
    }.items()
}
"""By the members of a result, in their order, and those of its only block."""


def of_arguments(arguments: JsonObject, prompt: str) -> tuple[str, JsonObject] | None:
    """The number of the body of a prompt that is the only argument, and a copy of these; None if it is another."""
    if type(arguments) is not dict or len(arguments) != 1 or arguments.get("prompt") != prompt:
        return None
    return _OF_ARGUMENTS, {"prompt": prompt}


def of_prompt(arguments: JsonObject, metadata: JsonObject, prompt: str) -> tuple[str, JsonObject, JsonObject] | None:
    """As `of_arguments`, of a body that holds metadata, too; beside the number copies of both."""
    common = of_arguments(arguments, prompt)
    if common is None or not metadata:
        return (*common, {}) if common is not None else None
    version = metadata.get("protocol_version") if type(metadata) is dict and len(metadata) == 1 else None
    number = _WITH_PROTOCOL.get(version) if type(version) is str else None
    return (number, common[1], {"protocol_version": version}) if number is not None else None


def of_result(result: Json, text: str) -> tuple[str, Callable[[str], JsonObject]] | None:
    """The number of the body of a result that is one text, and what makes one of that; None if it is another."""
    known = _OF_RESULTS.get(tuple(result)) if type(result) is dict else None
    if known is None:
        return None
    content = result["content"]
    if type(content) is not list or len(content) != 1 or type(content[0]) is not dict:
        return None
    block = content[0]
    found = known.get(tuple(block))
    if found is None or block["text"] != text or block["type"] != "text":
        return None
    if "structuredContent" in result and result["structuredContent"] != {"result": text}:
        return None
    # Equal is not yet the same JSON: 0 equals False.
    if result.get("isError", False) is not False or result.get("resultType", "complete") != "complete":
        return None
    return found


def shortened(body: str) -> str:
    """`body`, or its number."""
    return _NUMBERS.get(body, body)


def written_out(body: str) -> str:
    """What `shortened` was given."""
    return _BODIES.get(body, body)
