"""All that the seams know of the package fastmcp, version 4, beyond the MCP SDK that it stands on.

Its requests, its results on the wire and its sessions are those of `mcp_v2`. Its own are: servers, contexts, tools, and
the way from a tool's name to the function that answers, through mounted servers and transformed tools.

Nothing here imports fastmcp before the server's process has done so.
"""

import inspect
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pydantic
import wrapt

from perdure.middleware.handler_signature import CONTEXT_PARAMETER
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk import mcp_v2
from perdure.middleware.sdk.interface import IncomingRequest, ResultTaker
from perdure.middleware.tool_schema import CONTINUATION_ID, continuation_id_schema
from perdure.quick_values import frozen

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from fastmcp.server.context import Context
    from fastmcp.tools.base import Tool, ToolResult
    from mcp_types import CallToolResult

__all__ = [
    "RegisteredTool",
    "function_behind",
    "is_context_type",
    "is_server",
    "registered_tool",
    "request_of",
    "watch_registrations",
]


def is_context_type(value: type) -> bool:
    context = getattr(sys.modules.get("fastmcp.server.context"), "Context", None)
    return context is not None and issubclass(value, context)


def is_server(value: object) -> bool:
    """Whether `value` is a `FastMCP` object, or the low-level server within one."""
    return _is_of(value, "fastmcp.server.server", "FastMCP") or _is_of(
        value, "fastmcp.server.low_level", "LowLevelServer"
    )


def _is_of(value: object, module: str, name: str) -> bool:
    """Whether `value` is of that class, which nobody has imported if this process has no such module."""
    found = getattr(sys.modules.get(module), name, None)
    return found is not None and isinstance(value, found)


def request_of(context: "Context") -> IncomingRequest | None:
    """The request behind a context, its arguments by the names that the running tool has for them.

    A transformed tool shows clients other names, and fills in values that no client sends and no record should hold.
    Where the server itself was told to call a tool, there is no request but what it was told.
    """
    running, found = _running.get(), context.request_context
    if found is not None and (running is None or not running.is_transformed):
        return mcp_v2.incoming(found._srctx)
    if running is None:
        return None
    arguments = {name: value for name, value in running.arguments.items() if name not in running.hidden}
    if found is None:
        told = {"name": running.shown.name, "arguments": arguments}
        return IncomingRequest(context, told, protocol_version=None, native=None)
    request = mcp_v2.incoming(found._srctx)
    return replace(request, params={**request.params, "arguments": arguments})


# ── the tool that runs ───────────────────────────────────────────────────────────────────────────────────────────


@frozen()
class _Running:
    """A tool whose function is about to be called. fastmcp tells a function's context which server, not which tool."""

    tool: "Tool"
    shown: "Tool"
    """What the client was shown in its place: itself, or what it was transformed into."""
    arguments: JsonObject
    hidden: frozenset[str]
    """Arguments that no client can send, since a transformed tool fills them in."""
    request: object
    within_another: bool
    """The body of another tool of this request called it."""

    @property
    def is_transformed(self) -> bool:
        return self.tool is not self.shown


_running: ContextVar[_Running | None] = ContextVar("perdure_running_tool", default=None)


@contextmanager
def _run(tool: "Tool", arguments: JsonObject) -> Iterator[None]:
    token = _running.set(_run_within(_running.get(), tool, arguments))
    try:
        yield
    finally:
        _running.reset(token)


def _run_within(outer: _Running | None, tool: "Tool", arguments: JsonObject) -> _Running:
    request = mcp_v2.current_request()
    key = None if request is None else request.key
    if outer is None or outer.request is not key:
        return _Running(tool, tool, arguments, frozenset(), key, within_another=False)
    if not _only_passes_on(outer.tool):
        return _Running(tool, tool, arguments, frozenset(), key, within_another=True)
    return _Running(tool, outer.shown, arguments, _hidden_by(outer), key, outer.within_another)


def _only_passes_on(tool: "Tool") -> bool:
    """Whether `tool` was transformed from another, without code of its own."""
    return hasattr(tool, "forwarding_fn") and tool.fn is tool.forwarding_fn


def _hidden_by(outer: _Running) -> frozenset[str]:
    """The arguments of the tool behind a transformed one that no client can send."""
    transforms: Mapping[str, Any] = outer.tool.transform_args
    names = {*transforms, *outer.tool.parent_tool.parameters.get("properties", {})}

    def is_hidden(name: str) -> bool:
        transform = transforms.get(name)
        if transform is None:
            return name in outer.hidden
        return transform.hide is True or (transform.name if isinstance(transform.name, str) else name) in outer.hidden

    return frozenset(name for name in names if is_hidden(name))


def registered_tool(
    _context: object, is_handler: Callable[[object], bool], name: str | None
) -> "RegisteredTool | None":
    """The tool that runs here, if its function satisfies `is_handler`; known by `name`, if that is given.

    None too if another tool's body called it: then the call belongs to that tool's turn.
    """
    running = _running.get()
    if running is None or running.within_another or not is_handler(running.tool.fn):
        return None
    return RegisteredTool(running, name or running.shown.name)


async def function_behind(server: "FastMCP", name: str) -> Callable[..., Any] | None:
    """The function that a call of `name` ends at, behind mounted servers and transformed tools.

    None if there is none, or if no function of this process is decorated: then nobody need look it up, at 45 µs.
    """
    tool = None if not _decorated else await server.get_tool(name)
    while tool is not None:
        if _only_passes_on(tool):
            tool = tool.parent_tool
        elif (mounted := getattr(tool, "_server", None)) is not None:
            tool = await mounted.get_tool(tool._original_name)
        else:
            return getattr(tool, "fn", None)
    return None


class RegisteredTool:
    """A tool that runs."""

    def __init__(self, running: _Running, name: str) -> None:
        self._tool = running.tool
        self._filled_in = {name: running.arguments[name] for name in running.hidden if name in running.arguments}
        self.name = name
        self.input_schema: Mapping[str, Any] = running.tool.parameters
        self.output_schema: Mapping[str, Any] | None = running.shown.output_schema
        self.function: Callable[..., Any] = running.tool.fn

    def validated(self, arguments: JsonObject) -> dict[str, Any]:
        """The handler's keyword arguments, made of `arguments` as fastmcp itself makes them.

        Raises:
            ValidationError: They do not fit the tool's schema.
        """
        from fastmcp.server.dependencies import without_injected_parameters  # noqa: PLC0415

        shown = without_injected_parameters(self._tool.fn)
        signature = inspect.signature(shown)

        # fastmcp validates by calling: this is called in the function's place.
        collect: Any = lambda *args, **kwargs: signature.bind(*args, **kwargs).arguments  # noqa: E731
        collect.__signature__ = signature
        collect.__annotations__ = dict(getattr(shown, "__annotations__", {}))
        validated: dict[str, Any] = pydantic.TypeAdapter(collect).validate_python({**arguments, **self._filled_in})
        return validated

    def passes_result_to(self, _taker: ResultTaker, _request: IncomingRequest | None) -> bool:
        return False  # fastmcp's own middleware is to see what we announce.

    def result_of(self, value: object) -> JsonObject | None:
        """What fastmcp makes of the handler's value, on the wire; None for a question to the client.

        Raises:
            Exception: As fastmcp itself will when it is given this value.
        """
        from mcp_types import InputRequiredResult  # noqa: PLC0415

        if isinstance(value, InputRequiredResult):
            return None
        if inspect.isawaitable(value) or inspect.isasyncgen(value):
            raise TypeError(f"the handler returned {type(value).__name__}, whose answer comes after perdure has looked")
        return mcp_v2.to_wire(_result(self._tool.convert_result(list(value) if inspect.isgenerator(value) else value)))

    def answering(self, wire: JsonObject) -> "ToolResult":
        """A result that fastmcp passes on as it is. It was made, and validated, by its own converter before."""
        from fastmcp.tools.base import ToolResult  # noqa: PLC0415

        result = mcp_v2.result_from_wire(wire)
        # Not from_mcp_result: in this form fastmcp's middleware can change it, as it changes what functions return.
        return ToolResult(result.content, result.structured_content, result.meta, bool(result.is_error))

    def error(self, error: Exception) -> Exception:
        """What the handler raises so that the client reads the message, even where other errors are masked."""
        from fastmcp.exceptions import ToolError  # noqa: PLC0415

        raised: Exception = ToolError(str(error))
        return raised


def _result(result: "ToolResult") -> "CallToolResult":
    from mcp_types import CallToolResult  # noqa: PLC0415

    whole = result.to_mcp_result()
    if isinstance(whole, CallToolResult):
        return whole
    content, structured = whole if isinstance(whole, tuple) else (whole, None)
    return CallToolResult(content=content, structured_content=structured)


# ── what fastmcp tells nobody ────────────────────────────────────────────────────────────────────────────────────

_decorated: "weakref.WeakSet[FunctionType]" = weakref.WeakSet()
"""Functions with `@persisted` that were made tools of fastmcp."""


def watch_registrations() -> None:
    """Notice from now on which functions become tools of fastmcp, and which tool runs."""

    async def note_run(
        wrapped: Callable[..., Awaitable[Any]], tool: "Tool", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with _run(tool, dict(args[0] if args else kwargs["arguments"])):
            return await wrapped(*args, **kwargs)

    def note_tool(wrapped: Callable[..., Any], _class: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tool = wrapped(*args, **kwargs)
        mcp_v2.note_registered(tool.fn)
        return tool

    def prepare(wrapped: Callable[..., Any], _class: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _fit(args[0] if args else kwargs["fn"])
        parsed = wrapped(*args, **kwargs)
        _restore_title(parsed.input_schema)
        return parsed

    def wrap_tools(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "FunctionTool.from_function", note_tool)
        wrapt.wrap_function_wrapper(module, "FunctionTool.run", note_run)

    def wrap_transformed(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "TransformedTool.run", note_run)

    def wrap_parsing(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "ParsedFunction.from_function", prepare)

    wrapt.register_post_import_hook(wrap_tools, "fastmcp.tools.function_tool")
    wrapt.register_post_import_hook(wrap_transformed, "fastmcp.tools.tool_transform")
    wrapt.register_post_import_hook(wrap_parsing, "fastmcp.tools.function_parsing")


def _fit(function: Any) -> None:
    """Let a decorated handler look to fastmcp as the bare one would, with a hidden parameter that it recognises.

    The handler may have been decorated before fastmcp was imported, and its annotations are evaluated, which tells
    fastmcp more than their text would.
    """
    from fastmcp.server.context import Context  # noqa: PLC0415

    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType) or not hasattr(function, "__perdure__"):
        return
    _decorated.add(function)
    function.__doc__ = _documentation(getattr(function, "__wrapped__", function))
    signature = inspect.signature(function)
    fitting = {}
    if (hidden := signature.parameters.get(CONTEXT_PARAMETER)) is not None:
        fitting[CONTEXT_PARAMETER] = hidden.annotation | Context
    if getattr(inspect.unwrap(function), "__annotations__", {}).get("return") == "None":
        fitting["return"] = type(None)  # as fastmcp reads it from text, and from nothing else
    parameters = [
        parameter.replace(annotation=fitting.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
    ]
    function.__annotations__.update(fitting)
    function.__dict__["__signature__"] = signature.replace(
        parameters=parameters, return_annotation=fitting.get("return", signature.return_annotation)
    )


def _restore_title(input_schema: JsonObject) -> None:
    """fastmcp prunes titles that follow from a name; ours is how the added property is known again."""
    added = continuation_id_schema()
    properties = input_schema.get("properties", {})
    if properties.get(CONTINUATION_ID) == {key: value for key, value in added.items() if key != "title"}:
        properties[CONTINUATION_ID] = added


def _documentation(handler: Any) -> str | None:
    """The docstring in which fastmcp looks for the tool's description: of what a `partial` or an object calls."""
    while isinstance(handler, partial) and "__doc__" not in handler.__dict__:
        handler = handler.func
    own: str | None = handler.__doc__
    return own if own or inspect.isroutine(handler) else handler.__call__.__doc__
