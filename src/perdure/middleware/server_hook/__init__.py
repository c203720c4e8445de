"""`install(server)`: the seam around a whole server, for tools whose code is not touched at all."""

from collections.abc import Iterable

from perdure.middleware.sdk import mcp_is_version_1
from perdure.middleware.server_hook import mcp_v1, mcp_v2
from perdure.settings import ToolSettings

__all__ = ["install"]


def install(server: object, *, tools: Iterable[str] = ()) -> None:
    """Persist tools of `server`: an `MCPServer`, a `FastMCP` of mcp 1.x, or a low-level `Server` of either. Once; a
    second time does nothing.

    Which tools: those that `perdure.toml` switches on, those named in `tools`, and those decorated with `@persisted`.
    A tool both decorated and named is recorded once.

    Raises:
        TypeError: `server` is neither.
    """
    named = {name: ToolSettings() for name in ([tools] if isinstance(tools, str) else tools)}
    hook = mcp_v1.hook if mcp_is_version_1 else mcp_v2.hook
    hook(server, named)
