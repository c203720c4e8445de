"""What tests see of a tool call: its result in wire form, with and without perdure's additions, and what was kept."""

from typing import Any

from mcp import Client
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel
from wire_form import Json, announced_id, text_of, without_announcement

from perdure.middleware.persistence.turn import Turn
from perdure.middleware.persistence.wiring import Runtime

__all__ = ["AnyServer", "Json", "announced_id", "called", "kept", "listed", "text_of", "wire", "without_announcement"]

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


def kept(runtime: Runtime) -> list[Turn]:
    """All turns of everybody, in the order in which they began within each conversation."""
    return [
        turn
        for line in reversed(runtime.engine.conversations())
        for turn in runtime.engine.turns(line.principal, line.continuation_id)
    ]
