"""Conversations as resources of a server of the MCP Python SDK, version 2."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel

from perdure.errors import StoreError
from perdure.middleware.call_reader import Caller
from perdure.middleware.conversation_resources import ConversationResources
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk import mcp_v2
from perdure.middleware.sdk.interface import IncomingRequest
from perdure.middleware.sdk.mcp_v2_listing import wire_result

if TYPE_CHECKING:
    from mcp.server.context import HandlerResult

__all__ = ["METHODS", "with_conversations"]

METHODS = frozenset(
    {"initialize", "server/discover", "resources/list", "resources/templates/list", "resources/read"}
    | {"completion/complete"}
)


async def with_conversations(
    ours: ConversationResources,
    request: IncomingRequest,
    method: str,
    caller: Caller,
    proceed: "Callable[[], Awaitable[HandlerResult]]",
) -> "HandlerResult":
    """The answer to a request of one of `METHODS`: the server's own where nothing is to be said.

    Raises:
        MCPError: There is no such conversation, or it could not be read now.
    """
    params = request.params
    try:
        match method:
            case "initialize" | "server/discover":
                result = await proceed()
                return ours.announced(wire_result(result))
            case "resources/templates/list":
                return ours.with_template(await _page(proceed, method, "resourceTemplates", request))
            case "resources/list" if ours.continues(params):
                empty = _serialized(method, {"resources": []}, request)
                return await ours.listed(caller, empty, params["cursor"])
            case "resources/list":
                return await ours.listed(caller, await _page(proceed, method, "resources", request), None)
            case "resources/read" if ours.named_by(params):
                return _serialized(method, await ours.read(caller, params), request)
            case "completion/complete" if ours.completes(params):
                return _serialized(method, await ours.completed(caller, params), request)
            case _:
                return await proceed()
    except StoreError as error:
        from mcp.shared.exceptions import MCPError  # noqa: PLC0415 - a server has it imported by now
        from mcp_types import INVALID_PARAMS  # noqa: PLC0415

        raise MCPError(code=INVALID_PARAMS, message=str(error), data={"uri": params.get("uri")}) from error


async def _page(
    proceed: "Callable[[], Awaitable[HandlerResult]]", method: str, what: str, request: IncomingRequest
) -> JsonObject:
    """The server's own page; an empty one if it has no such list."""
    from mcp.shared.exceptions import MCPError  # noqa: PLC0415
    from mcp_types import METHOD_NOT_FOUND  # noqa: PLC0415

    try:
        return wire_result(await proceed())
    except MCPError as error:
        if error.code != METHOD_NOT_FOUND:
            raise
        return _serialized(method, {what: []}, request)


def _serialized(method: str, result: JsonObject, request: IncomingRequest) -> JsonObject:
    """`result` as this version of the protocol has it."""
    import mcp_types  # noqa: PLC0415
    from mcp_types.methods import serialize_server_result  # noqa: PLC0415

    kinds: dict[str, type[BaseModel]] = {
        "resources/list": mcp_types.ListResourcesResult,
        "resources/templates/list": mcp_types.ListResourceTemplatesResult,
        "resources/read": mcp_types.ReadResourceResult,
        "completion/complete": mcp_types.CompleteResult,
    }
    wire = mcp_v2.to_wire(kinds[method].model_validate(result))
    return dict(serialize_server_result(method, request.protocol_version or "", wire))
