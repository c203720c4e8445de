"""`@persisted`: the seam inside a server's own code, around one handler."""

import inspect
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import CodeType, FrameType
from typing import Any, ParamSpec, TypeVar, overload

from perdure.errors import DecoratorError
from perdure.logs import log
from perdure.middleware.persisted_handler import PersistedHandler, options_of
from perdure.middleware.sdk import sdk
from perdure.middleware.sdk.listing import follow_listings
from perdure.middleware.shown_tools import ShownTools
from perdure.settings import ToolSettings
from perdure.settings_loader import is_switched_on, tool_settings

__all__ = ["persisted"]

P = ParamSpec("P")
R = TypeVar("R")

_PLACE = "put @persisted directly below @mcp.tool(), so that it is applied first."

sdk.watch_registrations()
follow_listings(lambda: ShownTools(options_of))


@overload
def persisted(handler: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def persisted(
    *,
    enabled: bool = ...,
    history: str = ...,
    prompt_argument: str = ...,
    max_turns: int = ...,
    max_tokens: int = ...,
    announce: str | Iterable[str] = ...,
    strip_id: bool = ...,
    id_path: str | Iterable[str] = ...,
    redact: bool = ...,
    redact_patterns: str | Iterable[str] = ...,
    acknowledge: str = ...,
    expire_after: str | float | timedelta = ...,
    user_id: str = ...,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def persisted(handler: Any = None, /, **options: Any) -> Any:
    """Make a tool remember its conversations across restarts. Goes directly below `@mcp.tool()`.

    The options are defaults, with the names and values of `[tools.NAME]` in `perdure.toml`; what an operator sets
    there wins. Called directly, outside of an MCP request, the handler is as it was.

    Raises:
        DecoratorError: It stands in the wrong place, or on something that cannot be wrapped.
        SettingsError: An option does not exist or cannot have this value.
    """
    in_code = tool_settings(options)
    if handler is None and options:
        return lambda handler: _persisted(handler, in_code, sys._getframe(1))
    return _persisted(handler, in_code, sys._getframe(1))


def _persisted(handler: Any, in_code: ToolSettings, applied_in: FrameType) -> Any:
    if isinstance(handler, classmethod | staticmethod):
        return type(handler)(_persisted(handler.__func__, in_code, applied_in))
    _refuse_what_cannot_be_wrapped(handler)
    _refuse_wrong_order(handler, applied_in)
    # Asked before the SDK reads the signature, so that it can vanish from that.
    return PersistedHandler(handler, in_code, switched_on=is_switched_on()).function


def _refuse_what_cannot_be_wrapped(handler: Any) -> None:
    name = getattr(handler, "__qualname__", None) or type(handler).__name__
    if handler is None or not callable(handler):
        raise DecoratorError(
            f"@persisted was given {name!r}, a {type(handler).__name__} and no function.",
            remedy=_PLACE if handler is not None else "write @persisted without parentheses, or with options in them.",
        )
    if inspect.isclass(handler):
        raise DecoratorError(
            f"@persisted was given the class {name}.",
            remedy="put it on the method that answers calls, such as `async def execute(self, arguments: dict)`.",
        )
    function = getattr(handler, "__func__", handler)
    bodies = (function, getattr(type(handler), "__call__", None))  # noqa: B004 - the body is wanted, not the answer
    if any(inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body) for body in bodies):
        raise DecoratorError(
            f"@persisted was given the generator {name}, which gives no answer that could be kept.",
            remedy="return the whole answer; progress can be reported through the SDK's Context.",
        )
    if hasattr(handler, "__perdure__"):
        raise DecoratorError(f"@persisted stands twice on {name}.", remedy="remove one.")
    annotations = inspect.get_annotations(function) if inspect.isfunction(function) else {}
    if any("CallToolRequestParams" in str(annotation) for annotation in annotations.values()):
        raise DecoratorError(
            f"@persisted was given {name}, a low-level server's handler of all its tools.",
            remedy="call perdure.install(server, tools=[…]), or decorate the method that answers for one tool.",
        )


def _refuse_wrong_order(handler: Any, applied_in: FrameType) -> None:
    registered = handler
    while registered is not None and not sdk.was_registered(registered):
        registered = getattr(registered, "__wrapped__", None)
    if registered is None:
        return
    code = inspect.unwrap(registered).__code__
    if applied_in.f_code.co_filename == code.co_filename and _in_decorators(applied_in.f_lineno, code):
        raise DecoratorError(
            f"@persisted stands above @mcp.tool() on {handler.__qualname__}, line {applied_in.f_lineno} of "
            f"{code.co_filename}: the server has the bare function already.",
            remedy=_PLACE,
        )
    log.warning(
        "decorator.registered_bare",
        what=f"{handler.__qualname__} is a server's tool already, without @persisted.",
        remedy="if that server shall remember, register what persisted() returns.",
    )


def _in_decorators(line: int, code: CodeType) -> bool:
    """Whether `line` belongs to the decorators of a function: from its first line to where its body begins."""
    lines = [number for _, _, number in code.co_lines() if number is not None and number > code.co_firstlineno]
    return code.co_firstlineno <= line < min(lines, default=code.co_firstlineno + 1)
