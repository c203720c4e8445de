"""Conversations as resources of the server behind the proxy, whatever it is written in."""

from collections.abc import Awaitable, Callable

from perdure.errors import StoreError
from perdure.middleware.call_reader import Caller
from perdure.middleware.conversation_resources import ConversationResources
from perdure.middleware.persistence.turn import Json
from perdure.middleware.proxy.json_rpc import INVALID_PARAMS, METHOD_NOT_FOUND, Message, error_response, response
from perdure.middleware.proxy.requests import Request

__all__ = ["concerns", "with_conversations"]

_LISTS = {"resources/list": "resources", "resources/templates/list": "resourceTemplates"}


def concerns(ours: ConversationResources, message: Message) -> bool:
    """Whether the answer to this request is not the server's alone."""
    match message.method:
        case "resources/list" | "resources/templates/list":
            return ours.are_on
        case "resources/read":
            return ours.named_by(message.params)
        case "completion/complete":
            return ours.completes(message.params)
        case _:
            return False


async def with_conversations(
    ours: ConversationResources, request: Request, servers_own: Callable[[], Awaitable[Message]]
) -> Message:
    """The answer to such a request. `servers_own` gives the server's, be it an error."""
    caller = Caller()  # Whoever started us: on stdio nobody authenticates.
    params, method = request.message.params, request.message.method
    try:
        if method == "resources/read":
            return response(request.id, request.in_full(await ours.read(caller, params), cacheable=False))
        if method == "completion/complete":
            return response(request.id, request.in_full(await ours.completed(caller, params), cacheable=False))
        if method == "resources/list" and ours.continues(params):
            following = await ours.listed(caller, {"resources": []}, params["cursor"])
            return response(request.id, request.in_full(following, cacheable=False))
        answer = await servers_own()
        page: Json = answer.body.get("result")
        error: Json = answer.body.get("error")
        if isinstance(error, dict) and error.get("code") == METHOD_NOT_FOUND:
            page = request.in_full({_LISTS[str(method)]: []}, cacheable=False)  # It has none of its own.
        if not isinstance(page, dict):
            return answer
        page = ours.with_template(page) if method != "resources/list" else await ours.listed(caller, page, None)
        return response(request.id, page)
    except StoreError as refused:  # as the SDKs answer for a resource that is not there
        return error_response(request.id, INVALID_PARAMS, str(refused), {"uri": params.get("uri")})
