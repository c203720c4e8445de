"""The hook into servers of the MCP Python SDK, version 2: a middleware of the low-level server."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.errors import StoreError
from perdure.middleware.persisted_handler import options_of
from perdure.middleware.persisted_server import PersistedServer, listed_tools
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk import mcp_v2
from perdure.middleware.sdk.interface import IncomingRequest
from perdure.middleware.sdk.mcp_v2_listing import followed, wire_result
from perdure.middleware.server_hook.mcp_v2_conversations import METHODS, with_conversations
from perdure.middleware.shown_tools import ShownTools
from perdure.settings import ToolSettings

if TYPE_CHECKING:
    from mcp.server import Server
    from mcp.server.context import HandlerResult, ServerRequestContext

__all__ = ["Behind", "Hook", "hook", "lowlevel_server", "put_into", "taken_out_of"]


def hook(server: object, named: dict[str, ToolSettings]) -> None:
    """
    Raises:
        TypeError: `server` is no server of this SDK.
    """
    put_into(lowlevel_server(server), Hook, Behind(server), named)


def put_into(lowlevel: "Server[Any]", kind: "type[Hook]", behind: "Behind", named: dict[str, ToolSettings]) -> None:
    """Put a hook into `lowlevel`; if one is there, it learns of the tools that are `named` now."""
    for middleware in lowlevel.middleware:
        if isinstance(middleware, Hook):
            middleware.persisted.named.update(named)
            return
    listing = followed(lowlevel)
    shown = listing.listing if listing is not None and isinstance(listing.listing, ShownTools) else None
    lowlevel.middleware.append(kind(PersistedServer(behind, named, shown), behind, lowlevel))


def taken_out_of(lowlevel: "Server[Any]") -> None:
    """Take the hook out again: whoever puts another in its place knows more of the server."""
    chain = lowlevel.middleware
    chain[:] = [middleware for middleware in chain if not isinstance(middleware, Hook)]


class _Stands(NamedTuple):
    """Where a hook stands beside what seals request states."""

    within: bool
    around: bool
    """Further in, it refuses what it has not made itself, and other arguments than on the leg before."""


class Hook:
    def __init__(self, persisted: PersistedServer, behind: "Behind", lowlevel: "Server[Any]") -> None:
        self.persisted = persisted
        self.behind = behind
        self._lowlevel = lowlevel
        self._chain: list[object] = []
        self._stands = _Stands(within=False, around=False)

    async def __call__(
        self,
        ctx: "ServerRequestContext[Any, Any]",
        call_next: "Callable[[ServerRequestContext[Any, Any]], Awaitable[HandlerResult]]",
    ) -> "HandlerResult":
        if ctx.request_id is None:
            return await call_next(ctx)
        match ctx.method:
            case "tools/call":
                if self._lowlevel.middleware != self._chain:  # anybody may put something into it at any time
                    self._look_for_the_seal()
                stands = self._stands
                request = mcp_v2.incoming(ctx, is_sealed=stands.within)

                def proceed(arguments: JsonObject | None, *, opened: bool = False) -> "Awaitable[HandlerResult]":
                    if stands.around:
                        return mcp_v2.with_arguments_at_the_handler(mcp_v2.with_own_state(ctx), arguments, call_next)
                    if arguments is None and not opened:
                        return call_next(ctx)
                    return call_next(_with_arguments(mcp_v2.with_own_state(ctx) if opened else ctx, arguments))

                answer: HandlerResult = await self.persisted.call(request, proceed)
                return answer
            case "tools/list":
                result = await call_next(ctx)
                wire = wire_result(result)
                return self.persisted.list(wire) if isinstance(wire.get("tools"), list) else result
            case "resources/read" if self.persisted.keeps(request := mcp_v2.incoming(ctx)):
                return await self._read(request)
            case method if method in METHODS and self.persisted.conversations.are_on:
                request = mcp_v2.incoming(ctx)
                caller = self.behind.caller(request)
                ours = self.persisted.conversations
                return await with_conversations(ours, request, method, caller, lambda: call_next(ctx))
            case _:
                return await call_next(ctx)

    def _look_for_the_seal(self) -> None:
        chain: list[object] = [*self._lowlevel.middleware]
        self._chain = chain
        outer = takewhile(lambda middleware: middleware is not self, chain)
        inner = dropwhile(lambda middleware: middleware is not self, chain)
        self._stands = _Stands(
            within=any(map(mcp_v2.seals_request_state, outer)), around=any(map(mcp_v2.seals_request_state, inner))
        )

    async def _read(self, request: IncomingRequest) -> JsonObject:
        from mcp.shared.exceptions import MCPError  # noqa: PLC0415 - a server has it imported by now
        from mcp_types import INVALID_PARAMS, ReadResourceResult  # noqa: PLC0415
        from mcp_types.methods import serialize_server_result  # noqa: PLC0415

        try:
            result = await self.persisted.read(request)
        except StoreError as error:  # what the SDK itself raises for a resource that is not there
            raise MCPError(code=INVALID_PARAMS, message=str(error), data={"uri": request.params["uri"]}) from error
        wire = mcp_v2.to_wire(ReadResourceResult.model_validate(result))
        return dict(serialize_server_result("resources/read", request.protocol_version or "", wire))


class Behind:
    """The server, as `PersistedServer` asks for it."""

    def __init__(self, server: object) -> None:
        self._server = server
        self._options: dict[str, tuple[object, ToolSettings | None]] = {}
        """Those of the decorator on a tool's function, and that function."""

    @property
    def lowlevel(self) -> "Server[Any]":
        return lowlevel_server(self._server)

    def in_code(self, tool: str) -> ToolSettings | None:
        function = mcp_v2.function_of(self._server, tool)
        if function is None:
            return None
        known, options = self._options.get(tool, (None, None))
        if known is not function:
            options = options_of(function)
            self._options[tool] = function, options
        return options

    async def entries(self, request: IncomingRequest) -> dict[str, JsonObject]:
        from mcp_types import PaginatedRequestParams  # noqa: PLC0415

        entry = self.lowlevel.get_request_handler("tools/list")
        if entry is None:
            return {}

        async def page(cursor: str | None) -> JsonObject:
            params = {} if cursor is None else {"cursor": cursor}
            asked = replace(request.native, method="tools/list", params=params)
            return wire_result(await entry.handler(asked, PaginatedRequestParams(cursor=cursor)))

        return await listed_tools(page)

    def error(self, text: str) -> JsonObject:
        from mcp_types import CallToolResult, TextContent  # noqa: PLC0415

        return mcp_v2.to_wire(CallToolResult(content=[TextContent(type="text", text=text)], is_error=True))

    # As they are: they are asked in every call.
    wire = staticmethod(wire_result)
    caller = staticmethod(mcp_v2.caller_of)
    reporter = staticmethod(mcp_v2.reporter)


def lowlevel_server(server: object) -> "Server[Any]":
    """
    Raises:
        TypeError: `server` is no server of this SDK.
    """
    from mcp.server import Server  # noqa: PLC0415
    from mcp.server.mcpserver import MCPServer  # noqa: PLC0415

    if isinstance(server, MCPServer):
        return server._lowlevel_server
    if isinstance(server, Server):
        return server
    raise TypeError(
        "install() takes an MCPServer or a low-level Server of mcp 2.x, or a FastMCP of fastmcp 4.x, not "
        f"{type(server).__name__}"
    )


def _with_arguments(
    ctx: "ServerRequestContext[Any, Any]", arguments: JsonObject | None
) -> "ServerRequestContext[Any, Any]":
    return ctx if arguments is None else replace(ctx, params={**(ctx.params or {}), "arguments": arguments})
