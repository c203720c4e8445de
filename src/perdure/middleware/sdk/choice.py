"""Which SDK answers. fastmcp 4 stands on mcp 2.x and lives beside it in one process, so a process cannot be asked.

A server is hooked by the one whose it is, and a context is asked for its request and its tool by the one that made it.
The rest they have in common.
"""

from collections.abc import Callable

from perdure.middleware.sdk import fastmcp_v4, fastmcp_v4_listing, mcp_v2
from perdure.middleware.sdk.interface import IncomingRequest, RegisteredTool
from perdure.middleware.sdk.mcp_v2 import (
    called_tool,
    caller_of,
    context_type,
    current_request,
    event_loop,
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
    "event_loop",
    "is_block",
    "is_of_fastmcp",
    "is_question",
    "is_result",
    "jsonable",
    "registered_tool",
    "reporter",
    "request_of",
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
    fastmcp_v4.watch_registrations()
    fastmcp_v4_listing.follow_every_server()


def is_of_fastmcp(server: object) -> bool:
    return fastmcp_v4.is_server(server)


def request_of(context: object) -> IncomingRequest | None:
    return fastmcp_v4.request_of(context) if fastmcp_v4.is_context(context) else mcp_v2.request_of(context)


def registered_tool(context: object, is_handler: Callable[[object], bool], name: str | None) -> RegisteredTool | None:
    if fastmcp_v4.is_context(context):
        return fastmcp_v4.registered_tool(is_handler, name)
    return mcp_v2.registered_tool(context, is_handler, name)
