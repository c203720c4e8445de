"""Servers and clients of the MCP Python SDK, version 2."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import mcp_types
from mcp import Client, StdioServerParameters
from mcp.server import Server
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool as FunctionTool
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool
from pydantic import BaseModel
from seams.worlds.alike import HighLevelServers, LowLevelServers, SdkClient, SdkKit, Told
from seams.worlds.class_based import ClassBasedTool, class_based_tool, context_of_this_call
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

    def meta_of(self, context: Context[Any, Any]) -> Mapping[str, Any]:
        return dict(context.request_context.meta or {})


class _Sdk:
    sdk = f"mcp {version('mcp')}"
    kit = _Kit
    limits: Mapping[Limit, str] = {}
    limits_when_decorated: Mapping[Limit, str] = {Limit.NO_RESOURCES: "a decorator answers for its tool alone"}
    limits_when_hooked: Mapping[Limit, str] = {
        Limit.CRASH_TEXT_IS_LOST: "the SDK shows what a tool raised to nobody around it",
    }

    @asynccontextmanager
    async def connect(self, server: Any) -> AsyncIterator[ToolClient]:
        async with Client(server) as client:
            yield _Client(client)

    @asynccontextmanager
    async def connect_to_process(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> AsyncIterator[ToolClient]:
        parameters = StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(environment))
        async with Client(parameters) as client:
            yield _Client(client)


class _HighLevel(_Sdk, HighLevelServers):
    name = "MCPServer"

    def new(self) -> MCPServer:
        return MCPServer("suite")


class _LowLevel(_Sdk, LowLevelServers):
    limits: Mapping[Limit, str] = {**_Sdk.limits, **LowLevelServers.own_limits}
    limits_when_decorated: Mapping[Limit, str] = {
        **_Sdk.limits_when_decorated,
        **LowLevelServers.own_limits_when_decorated,
        Limit.CRASH_TEXT_IS_LOST: "its method raises the SDK's word for what its function raised",
    }
    stdio_server = staticmethod(stdio_server)

    def server(self, tools: Sequence[Handler], persist: Persist) -> Server[Any]:
        by_name: dict[str, ClassBasedTool] = {}

        async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
            return ListToolsResult(tools=[_entry(tool.tool) for tool in by_name.values()])

        async def call_tool(context: Any, params: Any) -> CallToolResult:
            if params.name not in by_name:
                raise MCPError(code=-32602, message=f"Unknown tool: {params.name}")
            context_of_this_call.set(Context(request_context=context))
            try:
                result: CallToolResult = await by_name[params.name].execute(params.arguments or {})
            except MCPError:
                raise
            except Exception as error:  # as the SDK's own server of functions does it
                return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
            return result

        server: Server[Any] = Server("suite", on_list_tools=list_tools, on_call_tool=call_tool)
        server.tools_of_the_suite = by_name  # type: ignore[attr-defined]
        for tool in tools:
            self.add(server, tool, persist)
        return server

    def add(self, server: Any, tool: Handler, persist: Persist) -> None:
        made = class_based_tool(FunctionTool.from_function(tool), persist, lambda value: value)
        server.tools_of_the_suite[made.tool.name] = made


def _entry(tool: Any) -> Tool:
    return Tool(
        name=tool.name, description=tool.description, input_schema=tool.parameters, output_schema=tool.output_schema
    )


class _Client(SdkClient):
    Refused = MCPError

    def __init__(self, client: Client) -> None:
        self._client = client

    async def tools(self) -> Sequence[BaseModel]:
        return (await self._client.list_tools()).tools

    async def result(
        self, name: str, arguments: Json | None, meta: Json | None, told: Told | None, timeout: float | None
    ) -> BaseModel:
        return await self._client.call_tool(
            name,
            arguments,
            read_timeout_seconds=timeout,
            progress_callback=told,
            meta=meta,  # type: ignore[arg-type]
        )

    async def resource(self, uri: str) -> BaseModel:
        return await self._client.read_resource(uri)


KINDS = [_HighLevel(), _LowLevel()]
