"""Servers and clients of the package fastmcp, version 4."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import mcp_types
from fastmcp import Client, Context, FastMCP
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError
from fastmcp.tools import FunctionTool
from fastmcp.utilities.types import Image
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel
from seams.worlds.alike import HighLevelServers, SdkClient, SdkKit, Told
from seams.worlds.world import Json, Limit, Persist, ToolClient
from seams.worlds.world import Tool as Handler

__all__ = ["KINDS"]


class _Kit(SdkKit):
    Context = Context
    CallToolResult = CallToolResult
    ContentBlock = mcp_types.ContentBlock
    TextContent = TextContent
    Image = Image
    ToolError = ToolError

    def protocol_error(self, code: int, message: str) -> Exception:
        return MCPError(code=code, message=message)

    def meta_of(self, context: Context) -> Mapping[str, Any]:
        assert context.request_context is not None
        return context.request_context.meta or {}


class _FastMCP(HighLevelServers):
    sdk = f"fastmcp {version('fastmcp')}"
    name = "FastMCP"
    kit = _Kit
    limits: Mapping[Limit, str] = {
        Limit.NO_PROTOCOL_ERROR: "fastmcp makes a result of whatever a tool raises",
        Limit.RESULTS_ARE_NOT_CHECKED: "fastmcp leaves that to clients",
        Limit.CRASH_TEXT_IS_SENT: "fastmcp sends the text of whatever a tool raises, unless it is told to mask it",
    }
    limits_when_decorated: Mapping[Limit, str] = {
        Limit.NO_RESOURCES: "a decorator answers for its tool alone",
    }
    limits_when_hooked: Mapping[Limit, str] = {}

    def new(self) -> FastMCP:
        return FastMCP("suite")

    def add(self, server: FastMCP, tool: Handler, persist: Persist) -> None:
        server.add_tool(FunctionTool.from_function(persist(tool)))

    def run_on_stdio(self, server: FastMCP) -> None:
        server.run(show_banner=False)

    @asynccontextmanager
    async def connect(self, server: FastMCP) -> AsyncIterator[ToolClient]:
        async with Client(server) as client:
            yield _Client(client)

    @asynccontextmanager
    async def connect_to_process(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> AsyncIterator[ToolClient]:
        transport = StdioTransport(command[0], list(command[1:]), env=dict(environment), keep_alive=False)
        async with Client(transport) as client:
            yield _Client(client)


class _Client(SdkClient):
    Refused = MCPError

    def __init__(self, client: Client) -> None:
        self._client = client

    async def tools(self) -> Sequence[BaseModel]:
        return await self._client.list_tools()

    async def result(
        self, name: str, arguments: Json | None, meta: Json | None, told: Told | None, timeout: float | None
    ) -> BaseModel:
        return await self._client.call_tool_mcp(
            name, arguments or {}, timeout=timeout, progress_handler=told, meta=meta
        )

    async def resource(self, uri: str) -> BaseModel:
        return await self._client.read_resource_mcp(uri)


KINDS = [_FastMCP()]
