"""Servers and clients of the MCP Python SDK, version 2."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.server import Server
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool as FunctionTool
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ContentBlock, ListToolsResult, TextContent, Tool
from pydantic import BaseModel, TypeAdapter
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

    def block(self, wire: Json) -> ContentBlock:
        return TypeAdapter[ContentBlock](ContentBlock).validate_python(wire)

    def image(self, data: bytes, media_format: str) -> Image:
        return Image(data=data, format=media_format)

    def tool_error(self, message: str) -> Exception:
        return ToolError(message)

    def protocol_error(self, code: int, message: str) -> Exception:
        return MCPError(code=code, message=message)

    async def report_progress(self, context: Context[Any, Any], progress: float, message: str) -> None:
        await context.report_progress(progress, message=message)

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


class _HighLevel(_Sdk):
    name = "MCPServer"
    decorates = True

    def server(self, tools: Sequence[Handler], persist: Persist) -> MCPServer:
        server = MCPServer("suite")
        for tool in tools:
            self.add(server, tool, persist)
        return server

    def add(self, server: MCPServer, tool: Handler, persist: Persist) -> None:
        server.add_tool(persist(tool))

    def run_on_stdio(self, server: MCPServer) -> None:
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
        Limit.CRASH_TEXT_IS_LOST: "its method raises the SDK's word for what its function raised",
    }

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

    def run_on_stdio(self, server: Server[Any]) -> None:
        async def run() -> None:
            async with stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())

        anyio.run(run)


def _entry(tool: Any) -> Tool:
    return Tool(
        name=tool.name, description=tool.description, input_schema=tool.parameters, output_schema=tool.output_schema
    )


class _Client:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def list_tools(self) -> list[Json]:
        return [_wire(tool) for tool in (await self._client.list_tools()).tools]

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
            result = await self._client.call_tool(
                name,
                arguments,
                read_timeout_seconds=timeout,
                progress_callback=told if on_progress is not None else None,
                meta=meta,  # type: ignore[arg-type]
            )
        except MCPError as error:
            raise CallRefused(error.error.code, error.error.message) from error
        return _wire(result)

    async def give_up(self, name: str, arguments: Json, when: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as calling:
            calling.start_soon(self._client.call_tool, name, arguments)  # its own client tells the server
            await when()
            calling.cancel_scope.cancel()

    async def read_resource(self, uri: str) -> Json:
        try:
            return _wire(await self._client.read_resource(uri))
        except MCPError as error:
            raise CallRefused(error.error.code, error.error.message) from error


def _wire(value: BaseModel) -> Json:
    return value.model_dump(by_alias=True, mode="json", exclude_none=True)


KINDS = [_HighLevel(), _LowLevel()]
