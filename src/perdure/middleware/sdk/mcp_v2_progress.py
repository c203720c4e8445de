"""The work on a call's files as MCP progress, beside what the tool itself tells of its own: SDK of version 2."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import wrapt

from perdure.middleware.call_files import Report, Reporter
from perdure.middleware.rising_progress import RisingProgress
from perdure.middleware.sdk.interface import IncomingRequest
from perdure.middleware.sdk.progress import report_on_this_loop

if TYPE_CHECKING:
    from mcp.server.session import ServerSession

__all__ = ["reporter", "watch_progress"]

_RISING = "_perdure_rising"
"""The name under which a session, which lives as long as its request, keeps how far it has told that the call is."""


def watch_progress() -> None:
    """Hear from now on what tools tell of their progress: most calls tell nothing, and cost nothing then."""

    def noted(wrapped: Callable[..., Any], session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _rising(session).tool_told(args[0] if args else kwargs["progress"])
        return wrapped(*args, **kwargs)

    def noted_of_token(wrapped: Callable[..., Any], session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _rising(session).tool_told(args[1] if len(args) > 1 else kwargs["progress"])
        return wrapped(*args, **kwargs)

    def wrap(module: Any) -> None:
        wrapt.wrap_function_wrapper(module, "ServerSession.report_progress", noted)
        wrapt.wrap_function_wrapper(module, "ServerSession.send_progress_notification", noted_of_token)

    wrapt.register_post_import_hook(wrap, "mcp.server.session")


def reporter(request: IncomingRequest | None) -> Reporter | None:
    """Reports the work on a call's files as MCP progress; None where there is no request."""
    if request is None or request.native is None:
        return None  # The SDK tells nobody who did not ask; how a client asks differs between its transports.
    return partial(_report, request.native.session)


def _report(session: "ServerSession") -> Report:
    rising = _rising(session)
    watched: Any = type(session).report_progress
    unheard = watched.__wrapped__  # or what we tell would be taken for the tool's own

    async def tell(fraction: float, text: str) -> None:
        await unheard(session, rising.next(fraction), None, text)

    return report_on_this_loop(tell)


def _rising(session: object) -> RisingProgress:
    known: RisingProgress = vars(session).setdefault(_RISING, RisingProgress())
    return known
