"""Servers and clients of the MCP Python SDK, version 1."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters, stdio_client
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
    ContentBlock,
    ErrorData,
    TextContent,
    Tool,
)
from pydantic import AnyUrl, BaseModel, TypeAdapter
from seams.worlds.class_based import ClassBasedTool, class_based_tool, context_of_this_call
from seams.worlds.world import CallRefused, Json, Limit, Persist, ToolClient
from seams.worlds.world import Tool as Handler

__all__ = ["KINDS"]


class _Kit:
    def __init__(self, persist: Persist) -> None:
        self.persist = persist

    Context = Context
    CallToolResult = CallToolResult
    TextContent = TextContent
    Image = Image

    def result(self, wire: Json) -> CallToolResult:
        return CallToolResult.model_validate(wire)

    def block(self, wire: Json) -> Any:
        return TypeAdapter(ContentBlock).validate_python(wire)

    def image(self, data: bytes, media_format: str) -> Image:
        return Image(data=data, format=media_format)

    def tool_error(self, message: str) -> Exception:
        return ToolError(message)

    def protocol_error(self, code: int, message: str) -> Exception:
        return McpError(ErrorData(code=code, message=message))

    async def report_progress(self, context: Any, progress: float, message: str) -> None:
        await context.report_progress(progress, message=message)

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


class _HighLevel(_Sdk):
    name = "FastMCP"
    decorates = True

    def server(self, tools: Sequence[Handler], persist: Persist) -> FastMCP:
        server = FastMCP("suite")
        for tool in tools:
            self.add(server, tool, persist)
        return server

    def add(self, server: FastMCP, tool: Handler, persist: Persist) -> None:
        server.add_tool(persist(tool))

    def run_on_stdio(self, server: FastMCP) -> None:
        server.run()


class _LowLevel(_Sdk):
    name = "low-level"
    decorates = False
    limits: Mapping[Limit, str] = {
        **_Sdk.limits,
        Limit.NO_TOOL_DECORATOR: "one handler answers for all tools of such a server",
    }
    limits_when_decorated: Mapping[Limit, str] = {
        **_Sdk.limits_when_decorated,
        Limit.NOT_IN_LIST: "the list is the server's own code, which a decorator does not see",
        Limit.NOT_IN_STRUCTURED: "the output schema is the server's own code, which a decorator does not see",
        Limit.NO_HISTORY_PARAMETER: "its method takes one dictionary; see current_conversation()",
    }

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

    def run_on_stdio(self, server: Server[Any, Any]) -> None:
        async def run() -> None:
            async with stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())

        anyio.run(run)


def _entry(tool: Any) -> Tool:
    return Tool(
        name=tool.name, description=tool.description, inputSchema=tool.parameters, outputSchema=tool.output_schema
    )


def _as_result(value: Any) -> Any:
    if isinstance(value, CallToolResult):
        return value
    blocks, structured = value if isinstance(value, tuple) else (value, None)
    return CallToolResult(content=blocks, structuredContent=structured)


class _Client:
    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def list_tools(self) -> list[Json]:
        return [_wire(tool) for tool in (await self._session.list_tools()).tools]

    async def call_tool(
        self,
        name: str,
        arguments: Json | None = None,
        meta: Json | None = None,
        *,
        on_progress: Callable[[float, str | None], None] | None = None,
        timeout: float | None = None,
    ) -> Json:
        async def told(progress: float, _total: float | None, message: str | None) -> None:
            if on_progress is not None:
                on_progress(progress, message)

        try:
            result = await self._session.call_tool(
                name,
                arguments,
                read_timeout_seconds=None if timeout is None else timedelta(seconds=timeout),
                progress_callback=told if on_progress is not None else None,
                meta=meta,
            )
        except McpError as error:
            raise CallRefused(error.error.code, error.error.message) from error
        return _wire(result)

    async def give_up(self, name: str, arguments: Json, when: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as calling:
            number = self._session._request_id  # this client leaves cancelling to its user, and tells no number
            calling.start_soon(self._session.call_tool, name, arguments)
            await when()
            params = CancelledNotificationParams(requestId=number)
            await self._session.send_notification(ClientNotification(CancelledNotification(params=params)))
            calling.cancel_scope.cancel()

    async def read_resource(self, uri: str) -> Json:
        try:
            return _wire(await self._session.read_resource(AnyUrl(uri)))
        except McpError as error:
            raise CallRefused(error.error.code, error.error.message) from error


def _wire(value: BaseModel) -> Json:
    return value.model_dump(by_alias=True, mode="json", exclude_none=True)


KINDS = [_HighLevel(), _LowLevel()]
