"""All that the seams know of the MCP Python SDK, version 2."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

import wrapt

from perdure.middleware.call_reader import Caller
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk.function_tools import (
    FunctionTool,
    function_of,
    jsonable,
    note_registered,
    to_wire,
    tool_among,
    was_registered,
)
from perdure.middleware.sdk.interface import IncomingRequest, ResultTaker
from perdure.middleware.sdk.mcp_v2_handler import (
    sdk_types,
    seals_request_state,
    served,
    standing_around,
    with_arguments_at_the_handler,
    with_own_state,
)
from perdure.middleware.sdk.mcp_v2_listing import current, followed
from perdure.middleware.sdk.mcp_v2_progress import reporter, watch_progress

if TYPE_CHECKING:
    from mcp.server.auth.provider import AccessToken
    from mcp.server.context import ServerRequestContext
    from mcp_types import CallToolResult, ContentBlock, InputRequiredResult
    from typing_extensions import TypeIs

__all__ = [
    "RegisteredTool",
    "called_tool",
    "caller_of",
    "context_type",
    "current_request",
    "function_of",
    "incoming",
    "is_block",
    "is_question",
    "is_result",
    "jsonable",
    "note_registered",
    "registered_tool",
    "reporter",
    "request_of",
    "result_from_wire",
    "seals_request_state",
    "text_block",
    "to_wire",
    "tool_of_server",
    "was_registered",
    "watch_registrations",
    "with_arguments_at_the_handler",
    "with_own_state",
    "with_request_state",
]


def context_type() -> type:
    """The class by whose annotation the SDK recognises a parameter that takes the request."""
    from mcp.server.mcpserver import Context  # noqa: PLC0415 - a server has it imported; a bare `import perdure` need not

    return Context


# A context's properties read what it keeps under private names twice, and pydantic takes 2 µs for that: four times in a
# call. None outside of a request, and where it is kept otherwise.
def request_of(context: object) -> IncomingRequest | None:
    """The request behind a high-level context; None outside of one."""
    request = (getattr(context, "__pydantic_private__", None) or {}).get("_request_context")
    return None if request is None else incoming(request)


def incoming(request: "ServerRequestContext[Any, Any]", *, is_sealed: bool | None = None) -> IncomingRequest:
    """`is_sealed`: whether its state is, as whoever stands around the handler sees it."""
    params = request.params or {}
    here = served.get()
    if here is not None and here.session is request.session:
        state, sealed = here.envelope, here.was_sealed
    else:
        given = params.get("requestState")
        state, sealed = given if isinstance(given, str) else None, False
    sealed = sealed if is_sealed is None else is_sealed
    return IncomingRequest(request.session, params, request.protocol_version, request, state, sealed)


def caller_of(request: IncomingRequest | None) -> Caller:
    """Who calls, by the request's own authentication. On stdio nobody authenticates."""
    http_request = getattr(request.native, "request", None) if request is not None else None
    user = getattr(http_request, "scope", {}).get("user")
    token = getattr(user, "access_token", None) or _access_token()()
    if token is None:
        return _SOMEBODY if http_request is not None else _ON_STDIO
    return Caller.by_token(token)


_ON_STDIO, _SOMEBODY = Caller(), Caller(remote=True)


@cache
def _access_token() -> "Callable[[], AccessToken | None]":
    from mcp.server.auth.middleware.auth_context import get_access_token  # noqa: PLC0415

    return get_access_token


class RegisteredTool(FunctionTool):
    @staticmethod
    def result_type() -> "type[CallToolResult]":
        found: type[CallToolResult] = sdk_types().CallToolResult
        return found

    def validated(self, arguments: JsonObject) -> dict[str, Any]:
        validated: dict[str, Any] = self._tool.fn_metadata.validate_arguments(arguments)
        return validated

    def passes_result_to(self, taker: ResultTaker, request: IncomingRequest | None) -> bool:
        here = served.get()
        if here is None or request is None or here.session is not request.key or here.taker is not None:
            return False  # Called from Python, or its server was made before perdure was imported.
        here.taker = taker
        return True

    def result_of(self, value: object) -> JsonObject | None:
        result = self._tool.fn_metadata.convert_result(value)
        return to_wire(result) if is_result(result) else None

    def error(self, error: Exception) -> Exception:
        from mcp.server.mcpserver.exceptions import ToolError  # noqa: PLC0415

        return ToolError(str(error))


def registered_tool(context: object, is_handler: Callable[[object], bool], name: str | None) -> RegisteredTool | None:
    """The tool of the context's server whose function satisfies `is_handler`; under `name`, if that is given.

    Raises:
        LookupError: This version of the SDK keeps its tools where we do not find them.
    """
    server = (getattr(context, "__pydantic_private__", None) or {}).get("_mcp_server")
    if server is None:
        return None
    if not hasattr(server, "_tool_manager"):
        raise LookupError("this version of mcp keeps its tools elsewhere, so that no call of a decorated one is kept")
    return tool_among(server, is_handler, name, RegisteredTool.of)


def tool_of_server(server: object, is_handler: Callable[[object], bool], name: str | None) -> RegisteredTool | None:
    return tool_among(server, is_handler, name, RegisteredTool.of)


def result_from_wire(wire: JsonObject) -> "CallToolResult":
    from mcp_types import CallToolResult  # noqa: PLC0415

    return CallToolResult.model_validate(wire)


def is_result(value: object) -> "TypeIs[CallToolResult]":
    return isinstance(value, sdk_types().CallToolResult)


def is_block(value: object) -> "TypeIs[ContentBlock]":
    from mcp_types import ContentBlock  # noqa: PLC0415

    return isinstance(value, get_args(ContentBlock))


def is_question(value: object) -> "TypeIs[InputRequiredResult]":
    return isinstance(value, sdk_types().InputRequiredResult)


def with_request_state(question: "InputRequiredResult", state: str | None) -> "InputRequiredResult":
    return question.model_copy(update={"request_state": state})


def text_block(text: str) -> "ContentBlock":
    from mcp_types import TextContent  # noqa: PLC0415

    return TextContent(type="text", text=text)


def current_request() -> IncomingRequest | None:
    """The request that is being served here, for a handler that is not given it."""
    request = current.get()
    return None if request is None else incoming(request)


def called_tool() -> str | None:
    request = current.get()
    name = None if request is None or request.params is None else request.params.get("name")
    return name if isinstance(name, str) else None


def watch_registrations() -> None:
    """Notice from now on what the SDK tells nobody: which functions become tools, and which request is served.

    And give every tool its own request state, whoever put an envelope around it.
    """

    def note(wrapped: Callable[..., Any], _instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tool = wrapped(*args, **kwargs)
        note_registered(tool.fn)
        return tool

    def wrap(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "Tool.from_function", note)

    def follow(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        if isinstance(getattr(instance, "middleware", None), list):  # public, but provisional
            followed(instance)

    def wrap_server(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "Server.__init__", follow)
        if hasattr(module.Server, "get_request_handler"):
            module.Server.get_request_handler = standing_around(module.Server.get_request_handler)

    wrapt.register_post_import_hook(wrap, "mcp.server.mcpserver.tools.base")
    wrapt.register_post_import_hook(wrap_server, "mcp.server.lowlevel.server")
    watch_progress()
