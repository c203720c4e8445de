"""What servers of fastmcp, version 4, show of their tools follows the settings; clients are told.

As with the SDK that it stands on, but for the way from a tool's name to its function.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import wrapt

from perdure.logs import log
from perdure.middleware.sdk.fastmcp_v4 import function_behind
from perdure.middleware.sdk.mcp_v2_listing import FollowedListing, followed

__all__ = ["follow_every_server"]


def follow_every_server() -> None:
    """From now on: those that are made."""

    def note(wrapped: Callable[..., None], server: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        _follow(server)

    def wrap(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "LowLevelServer.__init__", note)

    wrapt.register_post_import_hook(wrap, "fastmcp.server.low_level")


def _follow(lowlevel: Any) -> None:
    """Follow the listing of the low-level server within a `FastMCP`, which has all its own middleware by now."""
    found = followed(lowlevel)
    if found is None:
        return
    # Further in than fastmcp's own, in whose reach tools are looked up; the hook comes further in still.
    lowlevel.middleware.remove(found)
    lowlevel.middleware.append(_FollowedListing(lowlevel, found.listing))


class _FollowedListing(FollowedListing):
    async def _functions(self, tools: Iterable[str]) -> Mapping[str, object]:
        server: Any = self._server
        found: dict[str, object] = {}
        for tool in tools:
            try:
                found[tool] = await function_behind(server.fastmcp, tool)
            except Exception as error:  # noqa: BLE001 - a tool that we cannot look up is the server's to show
                log.debug("tools.function_not_found", tool=tool, reason=str(error))
        return found
