"""Conversations as resources of a server of the MCP Python SDK, version 1."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from perdure.errors import StoreError
from perdure.middleware.call_reader import Caller
from perdure.middleware.conversation_resources import ConversationResources
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk.mcp_v1 import to_wire

if TYPE_CHECKING:
    from mcp.types import ServerResult

    Handler: TypeAlias = Callable[..., Awaitable[ServerResult]]

__all__ = ["RESOURCE_NOT_FOUND", "concerns", "with_conversations"]

RESOURCE_NOT_FOUND = -32002
"""MCP specification 2025-06-18, Resources, Error Handling."""


def concerns(ours: ConversationResources, request_type: object) -> bool:
    """Whether requests of this kind are answered even by a server that has nothing of the kind itself."""
    from mcp import types  # noqa: PLC0415 - a server has it imported by now

    kinds = {types.ListResourcesRequest, types.ListResourceTemplatesRequest}
    return request_type in kinds | {types.ReadResourceRequest, types.CompleteRequest} and ours.are_on


async def with_conversations(
    ours: ConversationResources, request: Any, caller: Caller, servers_own: "Handler | None"
) -> "ServerResult":
    """The answer to a request that `concerns` us: the server's own where nothing is to be said.

    Raises:
        McpError: There is no such conversation, or it could not be read now; or nobody answers such a request.
    """
    from mcp import types  # noqa: PLC0415
    from mcp.shared.exceptions import McpError  # noqa: PLC0415

    params = to_wire(request.params) if request.params is not None else {}
    refusal = types.INVALID_PARAMS
    try:
        match request:
            case types.ListResourceTemplatesRequest():
                page = await _page(request, servers_own, "resourceTemplates")
                return types.ServerResult(types.ListResourceTemplatesResult.model_validate(ours.with_template(page)))
            case types.ListResourcesRequest():
                cursor = params["cursor"] if ours.continues(params) else None
                page = await _page(request, None if cursor else servers_own, "resources")
                listed = await ours.listed(caller, page, cursor)
                return types.ServerResult(types.ListResourcesResult.model_validate(listed))
            case types.ReadResourceRequest() if ours.named_by(params):
                refusal = RESOURCE_NOT_FOUND
                return types.ServerResult(types.ReadResourceResult.model_validate(await ours.read(caller, params)))
            case types.CompleteRequest() if ours.completes(params):
                return types.ServerResult(types.CompleteResult.model_validate(await ours.completed(caller, params)))
    except StoreError as error:
        data = types.ErrorData(code=refusal, message=str(error), data={"uri": params.get("uri")})
        raise McpError(data) from error
    if servers_own is None:
        raise McpError(types.ErrorData(code=types.METHOD_NOT_FOUND, message="Method not found"))  # in the SDK's words
    return await servers_own(request)


async def _page(request: Any, servers_own: "Handler | None", what: str) -> JsonObject:
    """The server's own page; an empty one if it has no such list."""
    return {what: []} if servers_own is None else to_wire((await servers_own(request)).root)
