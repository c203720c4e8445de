"""What tests see of a tool call: its result in wire form, with and without perdure's additions, and what was kept."""

from typing import Any

from mcp import Client
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel

from perdure.middleware.persistence.turn import Turn
from perdure.middleware.persistence.wiring import Runtime

Json = dict[str, Any]
AnyServer = MCPServer | Server[Any]


def wire(value: BaseModel) -> Json:
    return value.model_dump(by_alias=True, mode="json", exclude_none=True)


async def listed(server: AnyServer, **options: Any) -> list[Json]:
    """The tools' entries in `tools/list`."""
    async with Client(server, **options) as client:
        return [wire(tool) for tool in (await client.list_tools()).tools]


async def called(server: AnyServer, tool: str, arguments: Json | None = None, meta: Any = None, **options: Any) -> Json:
    """The result of one call by a client of its own, which validates it as clients do."""
    async with Client(server, **options) as client:
        return wire(await client.call_tool(tool, arguments, meta=meta))


def announced_id(result: Json) -> str:
    identity: str = result["_meta"]["perdure/continuation-id"]
    return identity


def without_announcement(result: Json) -> Json:
    """`result` less what perdure may add to it, and nothing else."""
    identity = announced_id(result)
    stripped = dict(result)
    meta = {key: value for key, value in result["_meta"].items() if not key.startswith("perdure/")}
    del stripped["_meta"]
    if meta:
        stripped["_meta"] = meta
    content = result.get("content", [])
    if content and f"[continuation_id: {identity}]" in content[-1].get("text", ""):
        stripped["content"] = content[:-1]
    structured = result.get("structuredContent")
    if isinstance(structured, dict) and structured.get("continuation_id") == identity:
        stripped["structuredContent"] = {k: v for k, v in structured.items() if k != "continuation_id"}
    return stripped


def text_of(result: Json) -> str:
    """The tool's own text."""
    text: str = result["content"][0]["text"]
    return text


def kept(runtime: Runtime) -> list[Turn]:
    """All turns of everybody, in the order in which they began within each conversation."""
    return [
        turn
        for line in reversed(runtime.engine.conversations())
        for turn in runtime.engine.turns(line.principal, line.continuation_id)
    ]
