"""The hook into servers of the MCP Python SDK, version 1: around some handlers of the low-level server."""

from collections import UserDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from perdure.errors import StoreError
from perdure.middleware.active_call import active_call
from perdure.middleware.call_files import Reporter
from perdure.middleware.call_reader import Caller
from perdure.middleware.persisted_handler import options_of
from perdure.middleware.persisted_server import PersistedServer, listed_tools
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk import mcp_v1
from perdure.middleware.sdk.interface import IncomingRequest
from perdure.middleware.sdk.mcp_v1_listing import followed
from perdure.middleware.server_hook.mcp_v1_conversations import RESOURCE_NOT_FOUND, concerns, with_conversations
from perdure.middleware.shown_tools import ShownTools
from perdure.settings import ToolSettings

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolRequest, ListToolsRequest, ReadResourceRequest, ServerResult

    Handler: TypeAlias = Callable[..., Awaitable[ServerResult]]

__all__ = ["hook", "lowlevel_server", "taken_out_of"]


def hook(server: object, named: dict[str, ToolSettings]) -> None:
    """
    Raises:
        TypeError: `server` is no server of this SDK.
    """
    lowlevel = lowlevel_server(server)
    handlers: Any = lowlevel.request_handlers
    if isinstance(handlers, _Handlers):
        handlers.persisted.named.update(named)
    else:
        hooked: Any = _Handlers(server, handlers, named)
        lowlevel.request_handlers = hooked


def taken_out_of(lowlevel: "Server[Any, Any]") -> None:
    """Take the hook out again: whoever puts another in its place knows more of the server."""
    handlers: Any = lowlevel.request_handlers
    if isinstance(handlers, _Handlers):
        lowlevel.request_handlers = handlers.data


class _Handlers(UserDict[type, "Handler"]):
    """A server's handlers: those that were registered, whenever that was, with perdure around some of them.

    The dictionary behind it stays the server's own, since other parts of the server may hold it.
    """

    def __init__(self, server: object, handlers: "dict[type, Handler]", named: dict[str, ToolSettings]) -> None:
        super().__init__()
        self.data = handlers
        listing = followed(lowlevel_server(server))
        shown = listing.listing if listing is not None and isinstance(listing.listing, ShownTools) else None
        self.persisted = PersistedServer(_Behind(server, handlers), named, shown)

    def __contains__(self, request_type: object) -> bool:
        # The server asks, to say in its handshake what it can do.
        return request_type in self.data or concerns(self.persisted.conversations, request_type)

    def __getitem__(self, request_type: type) -> Any:
        return self._around(request_type, self.data[request_type])

    def get(self, request_type: type, default: Any = None) -> Any:
        # A stored file can be read from a server that has no resources of its own.
        return self._around(request_type, self.data.get(request_type, default))

    def _around(self, request_type: type, handler: "Handler | None") -> Any:
        from mcp.types import CallToolRequest, ListToolsRequest, ReadResourceRequest  # noqa: PLC0415

        if request_type is ReadResourceRequest:
            return lambda request: self._read(request, handler)
        if concerns(self.persisted.conversations, request_type):
            return lambda request: self._with_conversations(request, handler)
        if handler is None:
            return None
        if request_type is CallToolRequest:
            return lambda request: self._call(request, handler)
        if request_type is ListToolsRequest:
            return lambda request: self._list(request, handler)
        return handler

    async def _call(self, request: "CallToolRequest", handler: "Handler") -> "ServerResult":
        from mcp.types import CallToolResult, ServerResult  # noqa: PLC0415

        native, active = mcp_v1.current_context(), active_call.get()
        if native is None or (active is not None and active.key is native):
            return await handler(request)  # Outside of any request, or around another hook of ours.
        own: ServerResult | None = None

        async def proceed(arguments: JsonObject | None, *, opened: bool = False) -> ServerResult:
            nonlocal own  # `opened` is nothing here: no request of this SDK has a state
            own = await handler(request if arguments is None else _with_arguments(request, arguments))
            return own

        answer = await self.persisted.call(mcp_v1.incoming(native, request), proceed)
        if own is not None and (answer is own or not isinstance(own.root, CallToolResult)):
            return own
        return ServerResult(mcp_v1.result_from_wire(answer))

    async def _list(self, request: "ListToolsRequest | None", handler: "Handler") -> "ServerResult":
        from mcp.types import ListToolsResult, ServerResult  # noqa: PLC0415

        result = await handler(request)
        if request is None or not isinstance(result.root, ListToolsResult):
            return result  # Without a request the server asks itself, to hold arguments against the schemas.
        return ServerResult(ListToolsResult.model_validate(self.persisted.list(mcp_v1.to_wire(result.root))))

    async def _read(self, request: "ReadResourceRequest", handler: "Handler | None") -> "ServerResult":
        from mcp.shared.exceptions import McpError  # noqa: PLC0415 - a server has it imported by now
        from mcp.types import ErrorData, ReadResourceResult, ServerResult  # noqa: PLC0415

        native = mcp_v1.current_context()
        incoming = None if native is None else mcp_v1.incoming(native, request)
        if incoming is None or not self.persisted.keeps(incoming):
            return await self._with_conversations(request, handler)
        try:
            result = await self.persisted.read(incoming)
        except StoreError as error:
            data = {"uri": incoming.params["uri"]}
            raise McpError(ErrorData(code=RESOURCE_NOT_FOUND, message=str(error), data=data)) from error
        return ServerResult(ReadResourceResult.model_validate(result))

    async def _with_conversations(self, request: Any, handler: "Handler | None") -> "ServerResult":
        native = mcp_v1.current_context()
        if native is None and handler is not None:
            return await handler(request)  # Outside of any request.
        caller = mcp_v1.caller_of(None if native is None else mcp_v1.incoming(native, request))
        return await with_conversations(self.persisted.conversations, request, caller, handler)


class _Behind:
    """The server, as `PersistedServer` asks for it."""

    def __init__(self, server: object, handlers: "dict[type, Handler]") -> None:
        self._server = server
        self._handlers = handlers

    def in_code(self, tool: str) -> ToolSettings | None:
        found = mcp_v1.tool_of_server(self._server, lambda function: options_of(function) is not None, tool)
        return options_of(found.function) if found is not None else None

    async def entries(self, request: IncomingRequest) -> dict[str, JsonObject]:
        from mcp.types import ListToolsRequest, PaginatedRequestParams  # noqa: PLC0415

        handler = self._handlers.get(ListToolsRequest)
        if handler is None:
            return {}

        async def page(cursor: str | None) -> JsonObject:
            asked = ListToolsRequest(params=None if cursor is None else PaginatedRequestParams(cursor=cursor))
            return self.wire(await handler(asked))

        return await listed_tools(page)

    def wire(self, answer: Any) -> JsonObject:
        from mcp.types import CreateTaskResult  # noqa: PLC0415

        result = cast("ServerResult", answer).root
        return {"resultType": "task"} if isinstance(result, CreateTaskResult) else mcp_v1.to_wire(result)

    def error(self, text: str) -> JsonObject:
        from mcp.types import CallToolResult, TextContent  # noqa: PLC0415

        return mcp_v1.to_wire(CallToolResult(content=[TextContent(type="text", text=text)], isError=True))

    def caller(self, request: IncomingRequest) -> Caller:
        return mcp_v1.caller_of(request)

    def reporter(self, request: IncomingRequest) -> Reporter | None:
        return mcp_v1.reporter(request)


def lowlevel_server(server: object) -> "Server[Any, Any]":
    """
    Raises:
        TypeError: `server` is no server of this SDK.
    """
    from mcp.server.fastmcp import FastMCP  # noqa: PLC0415
    from mcp.server.lowlevel import Server  # noqa: PLC0415

    if isinstance(server, FastMCP):
        return server._mcp_server
    if isinstance(server, Server):
        return server
    raise TypeError(f"install() takes a FastMCP or a low-level Server of mcp 1.x, not {type(server).__name__}")


def _with_arguments(request: "CallToolRequest", arguments: JsonObject) -> "CallToolRequest":
    params = request.params.model_copy(update={"arguments": arguments})
    return request.model_copy(update={"params": params})
