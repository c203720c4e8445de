"""Servers and clients of the MCP Python SDK, version 1."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters, stdio_client, types
from mcp.server.fastmcp import Context, FastMCP, Image
from mcp.server.fastmcp.exceptions import ToolError
from mcp.server.fastmcp.tools import Tool as FunctionTool
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import McpError
from mcp.shared.memory import create_connected_server_and_client_session
from mcp.types import (
    CallToolResult,
    CancelledNotification,
    CancelledNotificationParams,
    ClientNotification,
    ErrorData,
    TextContent,
    Tool,
)
from pydantic import AnyUrl, BaseModel
from seams.worlds.alike import HighLevelServers, LowLevelServers, SdkClient, SdkKit, Told
from seams.worlds.class_based import ClassBasedTool, class_based_tool, context_of_this_call
from seams.worlds.world import Json, Limit, Persist, ToolClient
from seams.worlds.world import Tool as Handler

__all__ = ["KINDS"]


class _Kit(SdkKit):
    Context = Context
    CallToolResult = CallToolResult
    ContentBlock = types.ContentBlock
    TextContent = TextContent
    Image = Image
    ToolError = ToolError

    def protocol_error(self, code: int, message: str) -> Exception:
        return McpError(ErrorData(code=code, message=message))

    def meta_of(self, context: Any) -> Mapping[str, Any]:
        meta = context.request_context.meta
        return {} if meta is None else meta.model_dump(exclude_none=True)


class _Sdk:
    sdk = f"mcp {version('mcp')}"
    kit = _Kit
    limits: Mapping[Limit, str] = {
        Limit.NO_PROTOCOL_ERROR: "the SDK makes a result of whatever a tool raises",
        Limit.CRASH_TEXT_IS_SENT: "the SDK sends the text of whatever a tool raises",
        Limit.SYNC_ON_THE_EVENT_LOOP: "the SDK calls synchronous tools on its event loop",
    }
    limits_when_decorated: Mapping[Limit, str] = {Limit.NO_RESOURCES: "a decorator answers for its tool alone"}
    limits_when_hooked: Mapping[Limit, str] = {}

    @asynccontextmanager
    async def connect(self, server: Any) -> AsyncIterator[ToolClient]:
        async with create_connected_server_and_client_session(server) as session:
            yield _Client(session)

    @asynccontextmanager
    async def connect_to_process(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> AsyncIterator[ToolClient]:
        parameters = StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(environment))
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            yield _Client(session)


class _HighLevel(_Sdk, HighLevelServers):
    name = "FastMCP"

    def new(self) -> FastMCP:
        return FastMCP("suite")


class _LowLevel(_Sdk, LowLevelServers):
    limits: Mapping[Limit, str] = {**_Sdk.limits, **LowLevelServers.own_limits}
    limits_when_decorated: Mapping[Limit, str] = {
        **_Sdk.limits_when_decorated,
        **LowLevelServers.own_limits_when_decorated,
    }
    stdio_server = staticmethod(stdio_server)

    def server(self, tools: Sequence[Handler], persist: Persist) -> Server[Any, Any]:
        by_name: dict[str, ClassBasedTool] = {}
        server: Server[Any, Any] = Server("suite")
        server.tools_of_the_suite = by_name  # type: ignore[attr-defined]

        @server.list_tools()  # type: ignore[no-untyped-call]
        async def list_tools() -> list[Tool]:
            return [_entry(tool.tool) for tool in by_name.values()]

        @server.call_tool()
        async def call_tool(name: str, arguments: Json) -> Any:
            if name not in by_name:
                raise ValueError(f"Unknown tool: {name}")
            context_of_this_call.set(Context(request_context=server.request_context))
            return await by_name[name].execute(arguments)

        for tool in tools:
            self.add(server, tool, persist)
        return server

    def add(self, server: Any, tool: Handler, persist: Persist) -> None:
        made = class_based_tool(FunctionTool.from_function(tool), persist, _as_result)
        server.tools_of_the_suite[made.tool.name] = made


def _entry(tool: Any) -> Tool:
    return Tool(
        name=tool.name, description=tool.description, inputSchema=tool.parameters, outputSchema=tool.output_schema
    )


def _as_result(value: Any) -> Any:
    if isinstance(value, CallToolResult):
        return value
    blocks, structured = value if isinstance(value, tuple) else (value, None)
    return CallToolResult(content=blocks, structuredContent=structured)


class _Client(SdkClient):
    Refused = McpError

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def tools(self) -> Sequence[BaseModel]:
        return (await self._session.list_tools()).tools

    async def result(
        self, name: str, arguments: Json | None, meta: Json | None, told: Told | None, timeout: float | None
    ) -> BaseModel:
        seconds = None if timeout is None else timedelta(seconds=timeout)
        return await self._session.call_tool(
            name, arguments, read_timeout_seconds=seconds, progress_callback=told, meta=meta
        )

    async def give_up(self, name: str, arguments: Json, when: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as calling:
            number = self._session._request_id  # this client leaves cancelling to its user, and tells no number
            calling.start_soon(self._session.call_tool, name, arguments)
            await when()
            params = CancelledNotificationParams(requestId=number)
            await self._session.send_notification(ClientNotification(CancelledNotification(params=params)))
            calling.cancel_scope.cancel()

    async def resource(self, uri: str) -> BaseModel:
        return await self._session.read_resource(AnyUrl(uri))


KINDS = [_HighLevel(), _LowLevel()]
