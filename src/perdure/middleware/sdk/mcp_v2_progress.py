"""The work on a call's files as MCP progress, beside what the tool itself tells of its own: SDK of version 2."""

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import anyio.from_thread

from perdure.middleware.call_files import Report
from perdure.middleware.rising_progress import RisingProgress
from perdure.middleware.sdk.interface import IncomingRequest

if TYPE_CHECKING:
    from mcp.server.session import ServerSession

__all__ = ["reporter"]


def reporter(request: IncomingRequest | None, event_loop: Callable[[], object]) -> Report | None:
    """Reports the work on a call's files as MCP progress; None where there is no request."""
    if request is None or request.native is None:
        return None  # The SDK tells nobody who did not ask; how a client asks differs between its transports.
    session: ServerSession = request.native.session
    stands_there = vars(session).get("report_progress")
    known = getattr(stands_there, "__self__", None)
    return (known if isinstance(known, _Progress) else _Progress(session, event_loop())).report


class _Progress:
    """Stands before a session, which lives as long as its request, and hears what the tool tells through it."""

    def __init__(self, session: "ServerSession", event_loop: object) -> None:
        # Weak, since the session has us: what refers to itself waits for the garbage collector, in every call.
        self._session = weakref.ref(session)
        self._event_loop = event_loop
        self._rising = RisingProgress()
        replaceable: Any = session
        replaceable.report_progress = self.report_progress
        replaceable.send_progress_notification = self.send_progress_notification

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        self._rising.tool_told(progress)
        await self._tell(progress, total, message)

    async def send_progress_notification(
        self, progress_token: str | int, progress: float, *args: Any, **kwargs: Any
    ) -> None:
        self._rising.tool_told(progress)
        session = self._session()
        if session is not None:
            await type(session).send_progress_notification(session, progress_token, progress, *args, **kwargs)

    def report(self, fraction: float, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # The event loop has closed: nobody listens any more.
            anyio.from_thread.run(self._report, fraction, text, token=cast("Any", self._event_loop))

    async def _report(self, fraction: float, text: str) -> None:
        await self._tell(self._rising.next(fraction), None, text)

    async def _tell(self, progress: float, total: float | None, message: str | None) -> None:
        session = self._session()
        if session is not None:
            await type(session).report_progress(session, progress, total, message)
