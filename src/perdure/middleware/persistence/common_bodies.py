# ruff: noqa: E501 - each stands as it is in a database
"""Bodies that stand beside nearly every message, word for word, and so are written as a number.

Of a turn with 2 KB of text they took a tenth of the disk. A number means the same for ever: databases hold it. A new
one may be added below; none may be changed or taken away.
"""

__all__ = ["shortened", "written_out"]

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


def shortened(body: str) -> str:
    """`body`, or its number."""
    return _NUMBERS.get(body, body)


def written_out(body: str) -> str:
    """What `shortened` was given."""
    return _BODIES.get(body, body)
