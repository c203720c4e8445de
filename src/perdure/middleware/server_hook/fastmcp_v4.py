"""The hook into servers of fastmcp, version 4: the middleware of the low-level server within them.

fastmcp's own `add_middleware` would not do: it cannot rewrite what the client is asked for, nor a request that fastmcp
refuses for an argument that it does not know.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from perdure.logs import log
from perdure.middleware.persisted_handler import options_of
from perdure.middleware.sdk import fastmcp_v4
from perdure.middleware.sdk.mcp_v2_listing import wire_result
from perdure.middleware.server_hook import mcp_v2
from perdure.settings import ToolSettings

if TYPE_CHECKING:
    from mcp.server import Server
    from mcp.server.context import HandlerResult, ServerRequestContext

__all__ = ["hook", "lowlevel_server"]


def hook(server: Any, named: dict[str, ToolSettings]) -> None:
    """`server` is a `FastMCP`, or the low-level server within one.

    Raises:
        TypeError: This version of fastmcp keeps that server where we do not find it.
    """
    lowlevel = lowlevel_server(server)
    mcp_v2.put_into(lowlevel, _Hook, _Behind(lowlevel), named)


def lowlevel_server(server: Any) -> "Server[Any]":
    """
    Raises:
        TypeError: This version of fastmcp keeps it where we do not find it.
    """
    found: Any = getattr(server, "_mcp_server", server)  # fastmcp has no public name for it
    if not isinstance(getattr(found, "middleware", None), list):
        raise TypeError(
            "install() takes a FastMCP of fastmcp 4.x, and this version keeps its low-level server elsewhere"
        )
    lowlevel: Server[Any] = found
    return lowlevel


class _Hook(mcp_v2.Hook):
    behind: "_Behind"

    async def __call__(
        self,
        ctx: "ServerRequestContext[Any, Any]",
        call_next: "Callable[[ServerRequestContext[Any, Any]], Awaitable[HandlerResult]]",
    ) -> "HandlerResult":
        async def list_tools(ctx: "ServerRequestContext[Any, Any]") -> "HandlerResult":
            result = await call_next(ctx)
            for tool in wire_result(result).get("tools", []):
                await self.behind.learn(tool["name"])
            return result

        match ctx.method:
            case "tools/list":
                return await super().__call__(ctx, list_tools)
            case "tools/call":
                await self.behind.learn((ctx.params or {}).get("name"))
        return await super().__call__(ctx, call_next)


class _Behind(mcp_v2.Behind):
    def __init__(self, lowlevel: "Server[Any]") -> None:
        super().__init__(lowlevel)
        self._lowlevel: Any = lowlevel
        self._in_code: dict[str, ToolSettings] = {}

    @property
    def lowlevel(self) -> "Server[Any]":
        found: Server[Any] = self._lowlevel
        return found

    async def learn(self, tool: object) -> None:
        """Find out whether a decorator persists this tool. `in_code` cannot ask: fastmcp looks it up by awaiting."""
        if not isinstance(tool, str):
            return
        try:
            function = await fastmcp_v4.function_behind(self._lowlevel.fastmcp, tool)
        except Exception as error:  # noqa: BLE001 - the call itself will meet the same, and say so
            log.debug("install.tool_not_found", tool=tool, reason=str(error))
            function = None
        options = options_of(function)
        if options is None:
            self._in_code.pop(tool, None)
        else:
            self._in_code[tool] = options

    def in_code(self, tool: str) -> ToolSettings | None:
        return self._in_code.get(tool)
