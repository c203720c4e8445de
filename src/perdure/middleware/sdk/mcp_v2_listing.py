"""What servers of the MCP Python SDK, version 2, show of their tools follows the settings; clients are told.

What stands before a server for that, outermost, also notes which request is served: one middleware costs less than two.
"""

import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from perdure.middleware.meta_keys import META_OPTIONS
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.persistence.wiring import runtime
from perdure.middleware.sdk.listing import LONGEST_NOTICE, Listing, new_listing, tell_clients
from perdure.policy_sources import IN_CODE

if TYPE_CHECKING:
    from mcp.server import Server
    from mcp.server.connection import Connection
    from mcp.server.context import HandlerResult, ServerRequestContext
    from pydantic import BaseModel

__all__ = ["FollowedListing", "current", "followed", "wire_result"]

current: "ContextVar[ServerRequestContext[Any, Any] | None]" = ContextVar("perdure_request", default=None)
"""The request that is being served here. The SDK has no such thing, and a low-level server's handler hands none on."""


def followed(server: "Server[Any]") -> "FollowedListing | None":
    """The middleware that follows this server's listing; put before all others if there is none yet."""
    for middleware in server.middleware:
        if isinstance(middleware, FollowedListing):
            return middleware
    listing = new_listing()
    if listing is None:
        return None
    made = FollowedListing(server, listing)
    server.middleware.insert(0, made)
    return made


class FollowedListing:
    def __init__(self, server: "Server[Any]", listing: Listing) -> None:
        self.listing = listing
        self._server = server
        self._open: weakref.WeakKeyDictionary[Connection, object] = weakref.WeakKeyDictionary()
        """Connections that began with a handshake, and the event loop that serves each."""

    async def __call__(
        self,
        ctx: "ServerRequestContext[Any, Any]",
        call_next: "Callable[[ServerRequestContext[Any, Any]], Awaitable[HandlerResult]]",
    ) -> "HandlerResult":
        token = current.set(ctx)
        try:
            if ctx.request_id is None:
                return await call_next(ctx)
            if self.listing.have_changed():
                await self._tell()
            result = await call_next(ctx)
        finally:
            current.reset(token)
        match ctx.method:
            case "initialize":
                self._note(ctx)
                return self._offering_changes(result)
            case "tools/list":
                return await self._amended(ctx, result)
            case _:
                return result

    async def _amended(self, ctx: "ServerRequestContext[Any, Any]", result: "HandlerResult") -> "HandlerResult":
        wire = wire_result(result)
        functions = await self._functions([tool["name"] for tool in wire.get("tools", [])])
        shown = self.listing.amended(wire, functions.get, IN_CODE)
        if ctx.request is None and META_OPTIONS in (ctx.params or {}).get("_meta", {}):  # over HTTP it may be anybody
            names = [tool["name"] for tool in shown.get("tools", [])]
            options = self.listing.options_in_code(names)
            shown = {**shown, "_meta": {**(shown.get("_meta") or {}), META_OPTIONS: options}}
        return result if shown is wire else cast("HandlerResult", shown)

    async def _functions(self, tools: Iterable[str]) -> Mapping[str, object]:
        registered = self._tools()
        return {tool: registered[tool].fn for tool in tools if tool in registered}

    def _tools(self) -> Mapping[str, Any]:
        """Those of the `MCPServer` behind this low-level one, if there is one: nothing public leads there."""
        entry = self._server.get_request_handler("tools/list")
        manager = getattr(getattr(entry and entry.handler, "__self__", None), "_tool_manager", None)
        return {} if manager is None else {tool.name: tool for tool in manager.list_tools()}

    def _note(self, ctx: "ServerRequestContext[Any, Any]") -> None:
        connection = getattr(ctx.session, "_connection", None)  # a session lives as long as its request only
        if connection is not None:
            self._open[connection] = anyio.lowlevel.current_token()

    def _offering_changes(self, result: "HandlerResult") -> "HandlerResult":
        """A client that is not told that the list may change does not listen for it."""
        wire = wire_result(result)
        tools = (wire.get("capabilities") or {}).get("tools")
        if tools is None or tools.get("listChanged"):
            return result
        functions = [tool.fn for tool in self._tools().values()]
        if not self.listing.offers_changes(functions) or not runtime().settings.enabled:
            return result
        capabilities = {**wire["capabilities"], "tools": {**tools, "listChanged": True}}
        return cast("HandlerResult", {**wire, "capabilities": capabilities})

    async def _tell(self) -> None:
        """Sessions that began with a handshake get a notification; later ones have subscribed, or want none."""
        await tell_clients(self._open, lambda connection: connection.send_tool_list_changed())
        try:
            with anyio.move_on_after(LONGEST_NOTICE):
                await self._publish()
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            runtime().say("tools.change_not_told", error)

    async def _publish(self) -> None:
        from mcp.server.subscriptions import ToolsListChanged  # noqa: PLC0415 - a server has it imported by now

        entry = self._server.get_request_handler("subscriptions/listen")
        bus = getattr(entry and entry.handler, "_bus", None)
        if bus is not None:
            await bus.publish(ToolsListChanged())


def wire_result(result: object) -> JsonObject:
    """What a middleware is given back, in its wire form."""
    if isinstance(result, dict) or isinstance(result, Mapping):  # noqa: SIM101 - to ask an ABC takes far longer
        return dict(result)
    if result is None:
        return {}
    wire: JsonObject = cast("BaseModel", result).model_dump(by_alias=True, mode="json", exclude_none=True)
    return wire
