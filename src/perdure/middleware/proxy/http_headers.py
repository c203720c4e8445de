"""What a message says in its HTTP headers, too (MCP 2026-07-28, Transports, Standard and Custom Headers)."""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from perdure.middleware.persistence.turn import Json, JsonObject
from perdure.middleware.proxy.json_rpc import Message
from perdure.middleware.proxy.requests import PROTOCOL_VERSION

__all__ = ["MirroredArguments", "headers_of", "protocol_version", "tools_of"]

MirroredArguments = Mapping[tuple[str, ...], str]
"""Where an argument stands, by its names from the outermost, and the header that repeats it."""

_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""The parameter that `Mcp-Name` repeats, for each method that has one."""

_PLAIN = re.compile(r"[\x20-\x7e]*")
_ENCODED = re.compile(r"=\?base64\?.*\?=")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def protocol_version(message: Message) -> str | None:
    """Of the message itself, since 2026-07-28; None in versions that have a handshake."""
    version = message.meta.get(PROTOCOL_VERSION)
    return version if isinstance(version, str) and _PLAIN.fullmatch(version) else None


def headers_of(message: Message, mirrored: Mapping[str, MirroredArguments]) -> dict[str, str]:
    """`mirrored` by the tools' names. Empty in protocol versions that have a handshake."""
    if protocol_version(message) is None or message.method is None:
        return {}
    headers = {"Mcp-Method": _encoded(message.method)}
    name = message.params.get(_NAMED_BY.get(message.method, ""))
    if isinstance(name, str):
        headers["Mcp-Name"] = _encoded(name)
        if message.method == "tools/call":
            arguments = message.params.get("arguments")
            for path, header in mirrored.get(name, {}).items():
                if (text := _as_text(_at(arguments, path))) is not None:
                    headers[f"Mcp-Param-{header}"] = _encoded(text)
    return headers


def _mirrored_arguments(input_schema: Json) -> MirroredArguments:
    """Those that the schema marks with `x-mcp-header`."""
    return dict(_marked(input_schema, ()))


def _marked(schema: Json, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if not isinstance(schema, dict):
        return
    header = schema.get("x-mcp-header")
    if path and isinstance(header, str) and _TOKEN.fullmatch(header):
        yield path, header
    properties = schema.get("properties")
    for name, inner in (properties if isinstance(properties, dict) else {}).items():
        yield from _marked(inner, (*path, name))


def _at(arguments: Any, path: tuple[str, ...]) -> Json:
    for name in path:
        if not isinstance(arguments, dict):
            return None
        arguments = arguments.get(name)
    found: Json = arguments
    return found


def _as_text(value: Json) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | float():
            return str(value)
        case _:
            return None


def _encoded(text: str) -> str:
    if _PLAIN.fullmatch(text) and text == text.strip() and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode('ascii')}?="


def tools_of(answer: JsonObject) -> dict[str, MirroredArguments]:
    """What an answer to `tools/list` says of its tools."""
    result = answer.get("result")
    tools = result.get("tools") if isinstance(result, dict) else None
    return {
        tool["name"]: _mirrored_arguments(tool.get("inputSchema"))
        for tool in (tools if isinstance(tools, list) else [])
        if isinstance(tool, dict) and isinstance(tool.get("name"), str)
    }
