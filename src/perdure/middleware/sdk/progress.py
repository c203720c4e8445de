"""The work on a call's files, told of from whichever thread does it to the event loop that serves the call."""

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import anyio.lowlevel

from perdure.middleware.call_files import Report

__all__ = ["report_on_this_loop"]


def report_on_this_loop(tell: Callable[[float, str], Coroutine[Any, Any, None]]) -> Report:
    """A report that runs `tell` on the event loop of here: of this thread, or that which has sent this thread to work.

    Raises:
        RuntimeError: There is none.
    """
    from anyio import from_thread  # noqa: PLC0415 - the event loop brings it

    try:
        loop = anyio.lowlevel.current_token()
    except RuntimeError:  # of which anyio's own NoEventLoopError is one
        loop = from_thread.run_sync(anyio.lowlevel.current_token)

    def report(fraction: float, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # The event loop has closed: nobody listens any more.
            from_thread.run(tell, fraction, text, token=loop)

    return report
