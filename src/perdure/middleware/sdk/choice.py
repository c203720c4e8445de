"""Which SDK answers. fastmcp 4 stands on mcp 2.x and lives beside it in one process, so a process cannot be asked.

A server is hooked by the one whose it is, and a context is asked for its request and its tool by the one that made it.
The rest they have in common. What knows fastmcp is imported by a process that has imported fastmcp.
"""

import sys
from functools import cache

import wrapt

from perdure.middleware.sdk import mcp_v2
from perdure.middleware.sdk.interface import SdkOfContexts
from perdure.middleware.sdk.mcp_v2 import (
    called_tool,
    caller_of,
    context_type,
    current_request,
    is_block,
    is_question,
    is_result,
    jsonable,
    reporter,
    result_from_wire,
    text_block,
    to_wire,
    tool_of_server,
    was_registered,
    with_request_state,
)

__all__ = [
    "called_tool",
    "caller_of",
    "context_type",
    "current_request",
    "is_block",
    "is_of_fastmcp",
    "is_question",
    "is_result",
    "jsonable",
    "of_context",
    "reporter",
    "result_from_wire",
    "text_block",
    "to_wire",
    "tool_of_server",
    "was_registered",
    "watch_registrations",
    "with_request_state",
]


def watch_registrations() -> None:
    mcp_v2.watch_registrations()
    wrapt.register_post_import_hook(_watch_fastmcp, "fastmcp")


def _watch_fastmcp(_fastmcp: object) -> None:
    from perdure.middleware.sdk import fastmcp_v4, fastmcp_v4_listing  # noqa: PLC0415 - most processes have no fastmcp

    fastmcp_v4.watch_registrations()
    fastmcp_v4_listing.follow_every_server()


def is_of_fastmcp(server: object) -> bool:
    if "fastmcp" not in sys.modules:
        return False
    from perdure.middleware.sdk import fastmcp_v4  # noqa: PLC0415 - as above

    return fastmcp_v4.is_server(server)


@cache
def of_context(context_type: type) -> SdkOfContexts:
    if "fastmcp" not in sys.modules:
        return mcp_v2
    from perdure.middleware.sdk import fastmcp_v4  # noqa: PLC0415 - as above

    return fastmcp_v4 if fastmcp_v4.is_context_type(context_type) else mcp_v2
