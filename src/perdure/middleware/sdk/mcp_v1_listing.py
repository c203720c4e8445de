"""What servers of the MCP Python SDK, version 1, show of their tools follows the settings; clients are told.

This SDK has no middleware. What it has is one method through which every request goes, with its session and with the
object that takes the answer.
"""

import weakref
from typing import TYPE_CHECKING, Any, cast

import anyio.lowlevel
import wrapt

from perdure.middleware.meta_keys import META_OPTIONS
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.persistence.wiring import runtime
from perdure.middleware.sdk.listing import Listing, new_listing, tell_clients
from perdure.policy_sources import IN_CODE

if TYPE_CHECKING:
    from mcp.server.fastmcp import FastMCP
    from mcp.server.lowlevel import Server
    from mcp.server.session import ServerSession
    from mcp.types import ClientRequestType, ServerCapabilities

__all__ = ["FollowedListing", "follow", "followed", "note_functions_of", "offering_changes"]

_followed: "weakref.WeakKeyDictionary[Server[Any, Any], FollowedListing]" = weakref.WeakKeyDictionary()

_high_level: "weakref.WeakKeyDictionary[Server[Any, Any], weakref.ref[FastMCP[Any]]]" = weakref.WeakKeyDictionary()
"""The servers of functions around low-level ones: nothing of the SDK leads there."""


def followed(server: "Server[Any, Any]") -> "FollowedListing | None":
    """What follows this low-level server's listing; None if nobody asked for that."""
    found = _followed.get(server)
    if found is None and (listing := new_listing()) is not None:
        found = _followed[server] = FollowedListing(server, listing)
    return found


def note_functions_of(server: "FastMCP[Any]") -> None:
    _high_level[server._mcp_server] = weakref.ref(server)


async def follow(
    server: "Server[Any, Any]", message: Any, request: "ClientRequestType", session: "ServerSession"
) -> Any:
    """Tell clients of what changed before this request is served. Gives the object that takes the answer to it."""
    from mcp.types import ListToolsRequest  # noqa: PLC0415 - a server has it imported by now

    found = followed(server)
    if found is None:
        return message
    await found.look(session)
    return _Amending(message, found, request) if isinstance(request, ListToolsRequest) else message


def offering_changes(server: "Server[Any, Any]", capabilities: "ServerCapabilities") -> "ServerCapabilities":
    """A client that is not told that the list may change does not listen for it."""
    found = followed(server)
    tools = capabilities.tools
    if found is None or tools is None or tools.listChanged or not found.may_change():
        return capabilities
    return capabilities.model_copy(update={"tools": tools.model_copy(update={"listChanged": True})})


class FollowedListing:
    def __init__(self, server: "Server[Any, Any]", listing: Listing) -> None:
        self.listing = listing
        self._server = weakref.ref(server)
        self._open: weakref.WeakKeyDictionary[ServerSession, object] = weakref.WeakKeyDictionary()
        """Sessions that asked for something, and the event loop that serves each."""

    def may_change(self) -> bool:
        functions = [tool.fn for tool in self._tools()]
        return self.listing.offers_changes(functions) and runtime().settings.enabled

    async def look(self, session: "ServerSession") -> None:
        if self.listing.have_changed():
            await tell_clients(self._open, lambda session: session.send_tool_list_changed())
        self._open[session] = anyio.lowlevel.current_token()

    def amended(self, page: JsonObject) -> JsonObject:
        functions = {tool.name: tool.fn for tool in self._tools()}
        return self.listing.amended(page, functions.get, IN_CODE)

    def _tools(self) -> list[Any]:
        server = self._server()
        reference = _high_level.get(server) if server is not None else None
        manager = getattr(reference and reference(), "_tool_manager", None)
        return [] if manager is None else manager.list_tools()


class _Amending(wrapt.ObjectProxy[Any]):
    """What takes the answer to a `tools/list`."""

    def __init__(self, message: Any, followed: FollowedListing, request: Any) -> None:
        super().__init__(message)
        self._self_followed = followed
        self._self_request = request

    async def respond(self, response: Any) -> None:
        await self.__wrapped__.respond(self._amended(response))

    def _amended(self, response: Any) -> Any:
        from mcp.types import ListToolsResult, ServerResult  # noqa: PLC0415

        if not isinstance(response, ServerResult) or not isinstance(response.root, ListToolsResult):
            return response
        wire = response.root.model_dump(by_alias=True, mode="json", exclude_none=True)
        shown = self._self_followed.amended(wire)
        if self._asks_for_options():
            options = self._self_followed.listing.options_in_code([tool["name"] for tool in shown["tools"]])
            shown = {**shown, "_meta": {**(shown.get("_meta") or {}), META_OPTIONS: options}}
        return response if shown is wire else ServerResult(ListToolsResult.model_validate(shown))

    def _asks_for_options(self) -> bool:
        if getattr(self.__wrapped__.message_metadata, "request_context", None) is not None:
            return False  # over HTTP it may be anybody
        meta = cast("Any", self.__wrapped__.request_meta)
        return meta is not None and META_OPTIONS in (meta.model_extra or {})
