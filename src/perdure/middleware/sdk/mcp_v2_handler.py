"""Around a server's handler of tool calls: what it is given, and to whom its result goes; SDK of version 2."""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.request_state import is_envelope, own_state
from perdure.middleware.sdk.function_tools import to_wire
from perdure.middleware.sdk.interface import ResultTaker
from perdure.quick_values import mutable

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

__all__ = [
    "sdk_types",
    "seals_request_state",
    "served",
    "standing_around",
    "with_arguments_at_the_handler",
    "with_own_state",
]


@cache
def sdk_types() -> Any:
    """Asked for in every call: an import statement takes ten times as long as this."""
    import mcp_types  # noqa: PLC0415

    return mcp_types


@mutable()
class Served:
    """The call that is being served, at its server's handler."""

    session: object
    envelope: str | None
    """That was around the tool's request state."""
    was_sealed: bool
    taker: ResultTaker | None = None
    """To which the call's result goes."""


served: ContextVar[Served | None] = ContextVar("perdure_served", default=None)


def with_own_state(ctx: "ServerRequestContext[Any, Any]") -> "ServerRequestContext[Any, Any]":
    """The request with the tool's own state in place of the envelope around it."""
    params = dict(ctx.params or {})
    envelope = params.pop("requestState", None)
    if not is_envelope(envelope):
        return ctx
    own = own_state(envelope)
    return replace(ctx, params=params if own is None else {**params, "requestState": own})


_given: ContextVar[tuple[object, JsonObject] | None] = ContextVar("perdure_given", default=None)
"""A request's session, and the arguments that its handler gets in place of the client's."""


async def with_arguments_at_the_handler(
    ctx: "ServerRequestContext[Any, Any]", arguments: JsonObject | None, call_next: Callable[[Any], Awaitable[Any]]
) -> Any:
    """What `call_next` answers, the tool being given `arguments`, and all that stands before it the client's own."""
    token = _given.set(None if arguments is None else (ctx.session, arguments))
    try:
        return await call_next(ctx)
    finally:
        _given.reset(token)


def seals_request_state(middleware: object) -> bool:
    return isinstance(middleware, _boundary())


@cache
def _boundary() -> type:
    from mcp.server.request_state import RequestStateBoundary  # noqa: PLC0415

    return RequestStateBoundary


def standing_around(get_request_handler: Callable[..., Any]) -> Callable[..., Any]:
    """A server's way to its handlers, on which that of tool calls is found with ours around it.

    A plain function: it is asked in every call, and one of wrapt's would take longer than the rest of it.
    """

    @wraps(get_request_handler)
    def get_request_handler_of(server: Any, method: str) -> Any:
        entry = get_request_handler(server, method)
        if entry is None or method != "tools/call":
            return entry
        stands, around = vars(server).get(_STANDS_AROUND, (None, None))
        if stands is not entry:
            around = _around_handler(server, entry)
            vars(server)[_STANDS_AROUND] = entry, around
        return around

    return get_request_handler_of


_STANDS_AROUND = "_perdure_stands_around"
"""The name under which a server keeps its handler of tool calls, and ours around it: made once, and gone with it."""


def _around_handler(server: Any, entry: Any) -> Any:
    """The way to the handler of tool calls: takes our envelope off, and keeps it for a decorator further in.

    And gives the handler the arguments that a hook around a seal has for it, and its result to a decorator that wants
    it. Innermost, so that no middleware stands between, wherever in the chain it was put.
    """

    chain: list[object] = []
    is_sealed = False

    async def handler(ctx: Any, params: Any) -> Any:
        nonlocal chain, is_sealed
        if chain != server.middleware:  # anybody may put something into it at any time
            chain = list(server.middleware)
            is_sealed = any(map(seals_request_state, chain))
        given = _given.get()
        if given is not None and given[0] is ctx.session:
            ctx = replace(ctx, params={**(ctx.params or {}), "arguments": given[1]})
            params = params.model_copy(update={"arguments": given[1]})
        envelope = params.request_state
        here = Served(ctx.session, envelope, is_sealed)
        token = served.set(here)
        try:
            if envelope is not None and is_envelope(envelope):
                params = params.model_copy(update={"request_state": own_state(envelope)})
                ctx = with_own_state(ctx)
            result = await entry.handler(ctx, params)
        except BaseException as error:
            if here.taker is not None:
                await here.taker.failed(error)
            raise
        finally:
            served.reset(token)
        return result if here.taker is None else await _taken(result, here.taker)

    return replace(entry, handler=handler)


def _taken(result: object, taker: ResultTaker) -> Awaitable[object]:
    if isinstance(result, sdk_types().CallToolResult):
        return taker.ended(to_wire(result))
    if isinstance(result, Mapping):  # asked of few: to ask an ABC takes long
        return taker.ended(dict(result))
    return _failed(result, taker)


async def _failed(result: object, taker: ResultTaker) -> object:
    await taker.failed(TypeError(f"the server made {type(result).__name__} of what the tool gave"))
    return result
