"""`install(server)`: the seam around a whole server, for tools whose code is not touched at all."""

from collections.abc import Iterable

from perdure.middleware.sdk import mcp_is_version_1
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
    # Imported here, since a server whose tools are decorated needs none of these, and no server more than one.
    if mcp_is_version_1:
        from perdure.middleware.server_hook import mcp_v1  # noqa: PLC0415

        mcp_v1.hook(server, named)
        return
    from perdure.middleware.sdk import choice  # noqa: PLC0415

    if choice.is_of_fastmcp(server):
        from perdure.middleware.server_hook import fastmcp_v4  # noqa: PLC0415

        fastmcp_v4.hook(server, named)
    else:
        from perdure.middleware.server_hook import mcp_v2  # noqa: PLC0415

        mcp_v2.hook(server, named)
