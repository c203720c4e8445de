"""`install(server)`: the seam around a whole server, for tools whose code is not touched at all."""

from collections.abc import Iterable

from perdure.middleware.sdk import choice, mcp_is_version_1
from perdure.middleware.server_hook import fastmcp_v4, mcp_v1, mcp_v2
from perdure.settings import ToolSettings

__all__ = ["install"]


def install(server: object, *, tools: Iterable[str] = ()) -> None:
    """Persist tools of `server`. Once; a second time does nothing.

    `server` is an `MCPServer`, a `FastMCP` of mcp 1.x, a low-level `Server` of either, or a `FastMCP` of the package
    fastmcp 4.x.

    Which tools: those that `perdure.toml` switches on, those named in `tools`, and those decorated with `@persisted`.
    A tool both decorated and named is recorded once.

    Raises:
        TypeError: `server` is none of these.
    """
    named = {name: ToolSettings() for name in ([tools] if isinstance(tools, str) else tools)}
    if mcp_is_version_1:
        mcp_v1.hook(server, named)
    elif choice.is_of_fastmcp(server):
        fastmcp_v4.hook(server, named)
    else:
        mcp_v2.hook(server, named)
