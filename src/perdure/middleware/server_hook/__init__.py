"""`install(server)`: the seam around a whole server, for tools whose code is not touched at all."""

from collections.abc import Iterable

from perdure.middleware.server_hook import mcp_v2
from perdure.settings import ToolSettings

__all__ = ["install"]


def install(server: object, *, tools: Iterable[str] = ()) -> None:
    """Persist tools of `server`, an `MCPServer` or a low-level `Server` of mcp 2.x. Once; a second time does nothing.

    Which tools: those that `perdure.toml` switches on, those named in `tools`, and those decorated with `@persisted`.
    A tool both decorated and named is recorded once.

    Raises:
        TypeError: `server` is neither.
    """
    named = {name: ToolSettings() for name in ([tools] if isinstance(tools, str) else tools)}
    mcp_v2.hook(server, named)
