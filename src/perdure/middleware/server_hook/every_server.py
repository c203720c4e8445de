"""Hooks every server that is made in this process from now on, whether its SDK is imported already or will be.

A server with tools has a low-level one, which is made first. That one is hooked as well, for there are servers that
have nothing else; once the other is made, its hook takes that one's place, since it knows the tools.
"""

from collections.abc import Callable
from typing import Any

import wrapt

from perdure.logs import log
from perdure.middleware.sdk import mcp_is_version_1
from perdure.middleware.server_hook import fastmcp_v4, mcp_v2
from perdure.middleware.server_hook.mcp_v1 import hook as hook_in_version_1
from perdure.middleware.server_hook.mcp_v1 import lowlevel_server as lowlevel_server_of_version_1
from perdure.middleware.server_hook.mcp_v1 import taken_out_of as taken_out_of_version_1

__all__ = ["hook_every_server"]


def hook_every_server(made: Callable[[], None]) -> None:
    """`made` is called for each. Raises nothing into the server's code."""

    def when_made(module: str, name: str, hook: Callable[[Any], None]) -> None:
        def note(wrapped: Callable[..., None], server: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            wrapped(*args, **kwargs)
            _hooked(server, hook)
            made()

        wrapt.register_post_import_hook(
            lambda imported: wrapt.wrap_function_wrapper(imported, f"{name}.__init__", note), module
        )

    if mcp_is_version_1:
        when_made("mcp.server.lowlevel.server", "Server", _hook_version_1)
        when_made("mcp.server.fastmcp.server", "FastMCP", _hook_version_1)
    else:
        when_made("mcp.server.lowlevel.server", "Server", _hook_version_2)
        when_made("mcp.server.mcpserver.server", "MCPServer", _hook_version_2)
        when_made("fastmcp.server.server", "FastMCP", _hook_fastmcp)


def _hook_version_1(server: Any) -> None:
    taken_out_of_version_1(lowlevel_server_of_version_1(server))
    hook_in_version_1(server, {})


def _hook_version_2(server: Any) -> None:
    mcp_v2.taken_out_of(mcp_v2.lowlevel_server(server))
    mcp_v2.hook(server, {})


def _hook_fastmcp(server: Any) -> None:
    mcp_v2.taken_out_of(fastmcp_v4.lowlevel_server(server))
    fastmcp_v4.hook(server, {})


def _hooked(server: Any, hook: Callable[[Any], None]) -> None:
    try:
        hook(server)
    except Exception as error:  # noqa: BLE001 - the server runs all the same
        log.error(
            "run.server_not_covered",
            what=f"Nothing of a server is kept: {type(error).__name__}: {error}",
            remedy="report this, with the versions of mcp and fastmcp.",
        )
