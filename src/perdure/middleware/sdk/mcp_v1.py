"""All that the seams know of the MCP Python SDK, version 1."""

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

import wrapt

from perdure.errors import DecoratorError
from perdure.middleware.call_files import Reporter
from perdure.middleware.call_reader import Caller
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.rising_progress import RisingProgress
from perdure.middleware.sdk.function_tools import (
    FunctionTool,
    jsonable,
    note_registered,
    to_wire,
    tool_among,
    was_registered,
)
from perdure.middleware.sdk.interface import IncomingRequest, SdkOfContexts
from perdure.middleware.sdk.mcp_v1_listing import follow, note_functions_of, offering_changes
from perdure.middleware.sdk.progress import report_on_this_loop
from perdure.middleware.tool_schema import satisfies

if TYPE_CHECKING:
    from mcp.server.fastmcp import Context
    from mcp.server.session import ServerSession
    from mcp.shared.context import RequestContext
    from mcp.types import CallToolResult, ClientRequestType, ContentBlock
    from typing_extensions import TypeIs

    AnyRequestContext: TypeAlias = "RequestContext[ServerSession, Any, Any]"

__all__ = [
    "RegisteredTool",
    "called_tool",
    "caller_of",
    "context_type",
    "current_request",
    "incoming",
    "is_block",
    "is_question",
    "is_result",
    "jsonable",
    "of_context",
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


def context_type() -> type:
    """The class by whose annotation the SDK recognises a parameter that takes the request."""
    from mcp.server.fastmcp import Context  # noqa: PLC0415 - a server has it imported; a bare `import perdure` need not

    return Context


def of_context(_context_type: type) -> SdkOfContexts:
    return cast("SdkOfContexts", sys.modules[__name__])


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


def request_of(context: object) -> IncomingRequest | None:
    """The request behind a high-level context; None outside of one, and for the context of another request.

    Raises:
        LookupError: This version of the SDK does not show us what it serves.
    """
    try:
        native = cast("Context[Any, Any, Any]", context).request_context
    except (AttributeError, ValueError):
        return None
    request = current_request()
    return request if request is not None and request.native is native else None


def current_request() -> IncomingRequest | None:
    """The request that is being served here, for a handler that is not given it.

    Raises:
        LookupError: This version of the SDK does not show us what it serves.
    """
    native = current_context()
    if native is None:
        return None
    served = _served.get()
    if served is None:
        raise LookupError("this version of mcp serves requests elsewhere, so that no call of a decorated tool is kept")
    return incoming(native, served)


def called_tool() -> str | None:
    name = getattr(getattr(_served.get(), "params", None), "name", None)
    return name if isinstance(name, str) else None


def current_context() -> "AnyRequestContext | None":
    from mcp.server.lowlevel.server import request_ctx  # noqa: PLC0415

    return request_ctx.get(None)


def incoming(native: "AnyRequestContext", request: "ClientRequestType") -> IncomingRequest:
    """`native` is one object during one request; the session is not, it is that of the connection."""
    params = getattr(request, "params", None)
    meta = getattr(params, "meta", None)
    wire: JsonObject = {
        name: value for name in ("name", "arguments") if (value := getattr(params, name, None)) is not None
    }
    if meta is not None:
        wire["_meta"] = meta.model_dump(by_alias=True, exclude_unset=True)
    if (uri := getattr(params, "uri", None)) is not None:
        wire["uri"] = str(uri)
    about_client = native.session.client_params
    return IncomingRequest(native, wire, str(about_client.protocolVersion) if about_client else None, native)


def caller_of(request: IncomingRequest | None) -> Caller:
    """Who calls, by the request's own authentication. On stdio nobody authenticates."""
    from mcp.server.auth.middleware.auth_context import get_access_token  # noqa: PLC0415

    http_request = getattr(request.native, "request", None) if request is not None else None
    if http_request is None:
        token = get_access_token()
    else:
        # Never the context variable: in a session it is that of whoever began the session.
        token = getattr(http_request.scope.get("user"), "access_token", None)
    return Caller(remote=http_request is not None) if token is None else Caller.by_token(token)


_served: "ContextVar[ClientRequestType | None]" = ContextVar("perdure_served", default=None)


def reporter(request: IncomingRequest | None) -> Reporter | None:
    """Reports the work on a call's files as MCP progress; None where nobody asked for it."""
    progress_token = (request.params.get("_meta") or {}).get("progressToken") if request is not None else None
    if request is None or progress_token is None:
        return None
    native: AnyRequestContext = request.native
    watched = _WatchedSession(native.session)
    watched._self_token = progress_token
    watched._self_rising = rising = RisingProgress()
    native.session = cast("ServerSession", watched)

    async def send(fraction: float, text: str) -> None:
        await watched.__wrapped__.send_progress_notification(
            progress_token, rising.next(fraction), None, text, related_request_id=str(native.request_id)
        )

    return lambda: report_on_this_loop(send)


class _WatchedSession(wrapt.ObjectProxy[Any]):
    """The session as one request sees it: notes how far the tool says that it is."""

    _self_token: str | int | None = None
    _self_rising: RisingProgress

    async def send_progress_notification(
        self, progress_token: str | int, progress: float, *rest: Any, **named: Any
    ) -> None:
        if progress_token == self._self_token:
            self._self_rising.tool_told(progress)
        await self.__wrapped__.send_progress_notification(progress_token, progress, *rest, **named)


# ── servers and their tools ──────────────────────────────────────────────────────────────────────────────────────


class RegisteredTool(FunctionTool):
    @staticmethod
    def result_type() -> "type[CallToolResult]":
        from mcp.types import CallToolResult  # noqa: PLC0415

        return CallToolResult

    def validated(self, arguments: JsonObject) -> dict[str, Any]:
        metadata = self._tool.fn_metadata
        validated: dict[str, Any] = metadata.arg_model.model_validate(
            metadata.pre_parse_json(arguments)
        ).model_dump_one_level()
        return validated

    def result_of(self, value: object) -> JsonObject:
        from mcp.types import CallToolResult  # noqa: PLC0415

        converted: Any = self._tool.fn_metadata.convert_result(value)
        if is_result(converted):
            return to_wire(converted)
        blocks, structured = converted if isinstance(converted, tuple) else (converted, None)
        # As the low-level server does with what is no result yet.
        if self.output_schema is not None and not satisfies(self.output_schema, structured):
            raise ValueError("the structured content does not fit the tool's output schema")
        return to_wire(CallToolResult(content=list(blocks), structuredContent=structured, isError=False))

    def error(self, error: Exception) -> Exception:
        from mcp.server.fastmcp.exceptions import ToolError  # noqa: PLC0415

        return ToolError(str(error))


def registered_tool(context: object, is_handler: Callable[[object], bool], name: str | None) -> RegisteredTool | None:
    """The tool of the context's server whose function satisfies `is_handler`; under `name`, if that is given.

    Raises:
        LookupError: This version of the SDK keeps its tools where we do not find them.
    """
    try:
        server = cast("Context[Any, Any, Any]", context).fastmcp
    except (AttributeError, ValueError):
        return None
    if not hasattr(server, "_tool_manager"):
        raise LookupError("this version of mcp keeps its tools elsewhere, so that no call of a decorated one is kept")
    return tool_of_server(server, is_handler, name)


def tool_of_server(server: object, is_handler: Callable[[object], bool], name: str | None) -> RegisteredTool | None:
    return tool_among(server, is_handler, name, RegisteredTool.of)


def watch_registrations() -> None:
    """Notice from now on what the SDK tells nobody: which functions become tools, and which request is served."""

    def note_tool(wrapped: Callable[..., Any], _instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tool = wrapped(*args, **kwargs)
        note_registered(tool.fn)
        return tool

    async def note_request(
        wrapped: Callable[..., Any], server: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if len(args) > 2:
            args = (await follow(server, *args[:3]), *args[1:])
        token = _served.set(args[1] if len(args) > 1 else kwargs.get("req"))
        try:
            return await wrapped(*args, **kwargs)
        finally:
            _served.reset(token)

    def offer_changes(wrapped: Callable[..., Any], server: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return offering_changes(server, wrapped(*args, **kwargs))

    def note_server(wrapped: Callable[..., Any], server: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        note_functions_of(server)

    def refuse_dispatcher(
        wrapped: Callable[..., Any], _instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        register = wrapped(*args, **kwargs)

        def registering(function: Any) -> Any:
            if hasattr(function, "__perdure__"):
                raise DecoratorError(
                    f"@persisted was given {function.__qualname__}, a low-level server's handler of all its tools.",
                    remedy="call perdure.install(server, tools=[…]), or decorate the method that answers for one tool.",
                )
            return register(function)

        return registering

    def wrap_tools(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "Tool.from_function", note_tool)

    def wrap_server(module: Any) -> None:
        if hasattr(module.Server, "_handle_request"):  # private; without it see `current_request`
            wrapt.wrap_function_wrapper(module, "Server._handle_request", note_request)
        wrapt.wrap_function_wrapper(module, "Server.call_tool", refuse_dispatcher)
        wrapt.wrap_function_wrapper(module, "Server.get_capabilities", offer_changes)

    def wrap_server_of_functions(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "FastMCP.__init__", note_server)

    wrapt.register_post_import_hook(wrap_tools, "mcp.server.fastmcp.tools.base")
    wrapt.register_post_import_hook(wrap_server, "mcp.server.lowlevel.server")
    wrapt.register_post_import_hook(wrap_server_of_functions, "mcp.server.fastmcp.server")


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────


def result_from_wire(wire: JsonObject) -> "CallToolResult":
    from mcp.types import CallToolResult  # noqa: PLC0415

    return CallToolResult.model_validate(wire)


def is_result(value: object) -> "TypeIs[CallToolResult]":
    from mcp.types import CallToolResult  # noqa: PLC0415

    return isinstance(value, CallToolResult)


def is_block(value: object) -> "TypeIs[ContentBlock]":
    from mcp.types import ContentBlock  # noqa: PLC0415

    return isinstance(value, get_args(ContentBlock))


def is_question(_value: object) -> bool:
    """Whether a tool that gives this value wants something of the client first: not in this protocol's versions."""
    return False


def with_request_state(question: object, _state: str | None) -> object:
    return question


def text_block(text: str) -> "ContentBlock":
    from mcp.types import TextContent  # noqa: PLC0415

    return TextContent(type="text", text=text)
