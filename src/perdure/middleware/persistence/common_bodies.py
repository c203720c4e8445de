# ruff: noqa: E501 - each stands as it is in a database
"""Bodies that stand beside nearly every message, word for word, and so are written as a number.

Of a turn with 2 KB of text they took a tenth of the disk. A number means the same for ever: databases hold it. A new
one may be added below; none may be changed or taken away.

The commonest are known by what they are of, before any JSON is written: that takes a quarter of the time.
"""

from perdure.middleware.persistence.turn import Json, JsonObject

__all__ = ["of_arguments", "of_result", "shortened", "written_out"]

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
}

_NUMBERS = {body: number for number, body in _BODIES.items()}


_OF_ARGUMENTS = "1"

_OF_RESULTS = {
    ("content",): "5",
    ("content", "structuredContent"): "6",
    ("content", "isError"): "7",
    ("content", "structuredContent", "isError"): "8",
    ("content", "resultType"): "9",
    ("content", "structuredContent", "resultType"): "10",
}
"""By the members of a result, in their order."""


def of_arguments(arguments: JsonObject, prompt: str) -> tuple[str, JsonObject] | None:
    """The number of the body of a prompt that is the only argument, and a copy of these; None if it is another."""
    if type(arguments) is not dict or len(arguments) != 1 or arguments.get("prompt") != prompt:
        return None
    return _OF_ARGUMENTS, {"prompt": prompt}


def of_result(result: Json, text: str) -> tuple[str, JsonObject] | None:
    """The number of the body of a result that is one text, and a copy of that; None if it is another."""
    number = _OF_RESULTS.get(tuple(result)) if type(result) is dict else None
    if number is None:
        return None
    alike: JsonObject = {"content": [{"type": "text", "text": text}]}
    if "structuredContent" in result:
        alike["structuredContent"] = {"result": text}
    if "isError" in result:
        alike["isError"] = False
    if "resultType" in result:
        alike["resultType"] = "complete"
    # Equal is not yet the same JSON: 0 equals False, and objects do whatever the order of their members is.
    if result != alike or result.get("isError", False) is not False or next(iter(result["content"][0])) != "type":
        return None
    return number, alike


def shortened(body: str) -> str:
    """`body`, or its number."""
    return _NUMBERS.get(body, body)


def written_out(body: str) -> str:
    """What `shortened` was given."""
    return _BODIES.get(body, body)
