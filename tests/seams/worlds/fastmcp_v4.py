"""Servers and clients of the package fastmcp, version 4."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio
from fastmcp import Client, Context, FastMCP
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError
from fastmcp.tools import FunctionTool
from fastmcp.utilities.types import Image
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel, TypeAdapter
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

    async def report_progress(self, context: Context, progress: float, message: str) -> None:
        await context.report_progress(progress, message=message)

    def meta_of(self, context: Context) -> Mapping[str, Any]:
        assert context.request_context is not None
        return context.request_context.meta or {}


class _FastMCP:
    sdk = f"fastmcp {version('fastmcp')}"
    name = "FastMCP"
    decorates = True
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

    def server(self, tools: Sequence[Handler], persist: Persist) -> FastMCP:
        server = FastMCP("suite")
        for tool in tools:
            self.add(server, tool, persist)
        return server

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


class _Client:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def list_tools(self) -> list[Json]:
        return [_wire(tool) for tool in await self._client.list_tools()]

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
            result = await self._client.call_tool_mcp(
                name,
                arguments or {},
                timeout=timeout,
                progress_handler=told if on_progress is not None else None,
                meta=meta,
            )
        except MCPError as error:
            raise CallRefused(error.error.code, error.error.message) from error
        return _wire(result)

    async def give_up(self, name: str, arguments: Json, when: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as calling:
            calling.start_soon(self._client.call_tool_mcp, name, arguments)  # its own session tells the server
            await when()
            calling.cancel_scope.cancel()

    async def read_resource(self, uri: str) -> Json:
        try:
            return _wire(await self._client.read_resource_mcp(uri))
        except MCPError as error:
            raise CallRefused(error.error.code, error.error.message) from error


def _wire(value: BaseModel) -> Json:
    return value.model_dump(by_alias=True, mode="json", exclude_none=True)


KINDS = [_FastMCP()]
