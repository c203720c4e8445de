"""Clients of whichever version of the MCP SDK there is here, that give what they are answered as wire dictionaries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import pytest
from pydantic import BaseModel

__all__ = ["Asking", "Refused", "connected", "every_way", "low_level_server", "server_of_functions"]

_IS_VERSION_1 = version("mcp").startswith("1.")

every_way = pytest.mark.parametrize("mode", ["legacy"] if _IS_VERSION_1 else ["auto", "legacy"])
"""How a client gets to know the server: by a handshake, or (mcp 2.x) without."""

if _IS_VERSION_1:
    from mcp.shared.exceptions import McpError as Refused
else:
    from mcp.shared.exceptions import MCPError as Refused


def server_of_functions(name: str) -> Any:
    if _IS_VERSION_1:
        from mcp.server.fastmcp import FastMCP as MCPServer
    else:
        from mcp.server.mcpserver import MCPServer
    return MCPServer(name)


def low_level_server(name: str) -> Any:
    from mcp.server.lowlevel import Server

    return Server(name)


class Asking:
    def __init__(self, client: Any, capabilities: BaseModel) -> None:
        self._client = client
        self.capabilities = _wire(capabilities)

    async def resources(self, cursor: str | None = None) -> dict[str, Any]:
        return _wire(await self._client.list_resources(cursor=cursor))

    async def names(self) -> list[str]:
        return [resource["name"] for resource in (await self.resources())["resources"]]

    async def templates(self) -> list[dict[str, Any]]:
        return _wire(await self._client.list_resource_templates())["resourceTemplates"]  # type: ignore[no-any-return]

    async def read(self, uri: str) -> dict[str, Any]:
        """The one content of a resource."""
        (content,) = _wire(await self._client.read_resource(_uri(uri)))["contents"]
        return content  # type: ignore[no-any-return]

    async def completion(self, value: str) -> dict[str, Any]:
        if _IS_VERSION_1:
            from mcp.types import ResourceTemplateReference
        else:
            from mcp_types import ResourceTemplateReference
        ref = ResourceTemplateReference(type="ref/resource", uri="conversation://{continuation_id}")
        answer = await self._client.complete(ref, {"name": "continuation_id", "value": value})
        return _wire(answer)["completion"]  # type: ignore[no-any-return]


@asynccontextmanager
async def connected(server: Any, mode: str) -> AsyncIterator[Asking]:
    if _IS_VERSION_1:
        from mcp.shared.memory import create_connected_server_and_client_session

        async with create_connected_server_and_client_session(server) as session:
            yield Asking(session, session.get_server_capabilities())
    else:
        from mcp import Client

        async with Client(server, mode=mode) as client:
            yield Asking(client, client.server_capabilities)


def _wire(result: BaseModel) -> dict[str, Any]:
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)


def _uri(uri: str) -> Any:
    if _IS_VERSION_1:
        from pydantic import AnyUrl

        return AnyUrl(uri)
    return uri
