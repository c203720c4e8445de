"""One timer for all who wait on an event loop: one for each, set and taken back, is a third of what a wait costs."""

import asyncio
import contextvars
import math
import threading
from typing import Protocol

__all__ = ["deadlines_on"]


class Waiting(Protocol):
    def end_wait(self, *, late: bool) -> None: ...


def deadlines_on(loop: asyncio.AbstractEventLoop) -> "_Deadlines":
    """Of the loop that runs in this thread."""
    found = _of_thread.deadlines
    if found is None or found.loop is not loop:
        found = _of_thread.deadlines = _Deadlines(loop)
    return found


class _Deadlines:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._of: dict[Waiting, float] = {}
        """In seconds, on the clock of `loop`."""
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf

    def add(self, waiting: Waiting, deadline: float) -> None:
        self._of[waiting] = deadline
        if deadline < self._looks_at:
            self._look_at(deadline)

    def remove(self, waiting: Waiting) -> None:
        """The timer stays: the next may need it."""
        self._of.pop(waiting, None)

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = moment
        # In a context of its own: that of whoever waits first would be kept until then.
        self._timer = self.loop.call_at(moment, self._look, context=contextvars.Context())

    def _look(self) -> None:
        now = self.loop.time()
        for waiting in [waiting for waiting, deadline in self._of.items() if deadline <= now]:
            self.remove(waiting)
            waiting.end_wait(late=True)
        self._timer, self._looks_at = None, math.inf
        if self._of:
            self._look_at(min(self._of.values()))


class _OfThread(threading.local):
    deadlines: _Deadlines | None = None


_of_thread = _OfThread()
