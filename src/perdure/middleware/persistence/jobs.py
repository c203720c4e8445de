"""What a thread is given to do, and how its caller waits for it: in a thread of its own, or on an event loop.

The wait on asyncio costs as little as can be, since a turn has two and a server has all on one loop. A scope of anyio's
with a deadline would be a timer and a scope for each wait. Here all who wait on a loop have one timer (`deadlines.py`),
and the scope is made when somebody is cancelled.
"""

import asyncio
import contextlib
import contextvars
import math
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
import anyio.lowlevel

from perdure.middleware.persistence.deadlines import deadlines_on

__all__ = ["Job", "wake_all"]

T = TypeVar("T")


class Job(Generic[T]):
    """`function`, to be run once: in the context of who made it, if no other is given."""

    _result: T
    _error: BaseException | None = None
    _raised_in: tuple[TracebackType | None, BaseException | None] = (None, None)

    _wake: Callable[[], object] | None = None
    """Of who waits in a thread, or in trio."""
    _loop: Any = None
    """Of who waits on one: asyncio's, or the token of trio's."""
    _woken: "asyncio.Future[None] | None" = None
    _has_ended = _is_late = False
    """The wait on asyncio's loop."""

    def __init__(self, function: Callable[[], T], context: contextvars.Context | None = None) -> None:
        self._function = function
        self.context = contextvars.copy_context() if context is None else context

    def run(self) -> None:
        try:
            self.ended(self.context.run(self._function))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            self.failed(error)
        wake_all([self])

    def ended(self, result: T) -> None:
        """By other means than `run`. Who waits is woken by `wake_all`."""
        self._result = result

    def failed(self, error: BaseException) -> None:
        """As `ended`. Several may be told the same error."""
        self._error = error
        self._raised_in = error.__traceback__, error.__context__

    def waited_for(self, submit: Callable[[Self], None], budget: float) -> T:
        """What comes of it once it is given to `submit`; waits up to `budget` seconds.

        Raises:
            TimeoutError: The budget is used up.
        """
        done = threading.Event()
        self._wake = done.set
        submit(self)
        if not done.wait(budget):
            raise TimeoutError
        return self._outcome()

    async def awaited(self, submit: Callable[[Self], None], budget: float) -> T:
        """As `waited_for`, on an event loop. The wait is shielded: cancellation takes effect after it.

        Raises:
            asyncio.CancelledError: Of `Task.cancel`, which tells it once. A scope of anyio's does at what comes next.
        """
        task = _asyncio_task()
        if task is None:
            return await self._awaited_in_trio(submit, budget)
        self._loop = loop = task.get_loop()
        self._woken = loop.create_future()
        submit(self)
        deadlines = deadlines_on(loop)
        deadlines.add(self, loop.time() + budget)
        try:
            await self._woken
        except asyncio.CancelledError:
            await self._waited_out(loop)
            if anyio.current_effective_deadline() > -math.inf:
                raise  # It was told once; by a scope of anyio's it would be again, at what is awaited next.
        finally:
            deadlines.remove(self)
        if self._is_late:
            raise TimeoutError
        return self._outcome()

    async def _waited_out(self, loop: asyncio.AbstractEventLoop) -> None:
        """By who was cancelled: without a scope, one of anyio's that was cancelled tells it again and again."""
        if self._has_ended:
            return
        self._woken = loop.create_future()
        with anyio.CancelScope(shield=True):
            await self._woken

    async def _awaited_in_trio(self, submit: Callable[[Self], None], budget: float) -> T:
        done = anyio.Event()
        self._loop, self._wake = anyio.lowlevel.current_token().native_token, done.set
        submit(self)
        with anyio.fail_after(budget, shield=True):
            await done.wait()
        return self._outcome()

    def end_wait(self, *, late: bool = False) -> None:
        """Where it is waited for: in any thread, or on the event loop."""
        if self._wake is not None:
            self._wake()
        elif self._woken is not None and not self._has_ended:
            self._has_ended, self._is_late = True, late
            if not self._woken.done():  # Who waits may be about to hear that it was cancelled.
                self._woken.set_result(None)

    def _outcome(self) -> T:
        error = self._error
        if error is not None:
            # Without what others added, who were told before: where they were, and what they were about.
            traceback, error.__context__ = self._raised_in
            raise error.with_traceback(traceback)
        return self._result


def wake_all(jobs: "Iterable[Job[Any]]") -> None:
    """Whoever waits for these, which have ended or failed: an event loop once for all that wait on it."""
    by_loop: dict[Any, list[Job[Any]]] = {}
    for job in jobs:
        if job._loop is None:
            job.end_wait()
        else:
            by_loop.setdefault(job._loop, []).append(job)
    for loop, waiting in by_loop.items():
        soon = loop.call_soon_threadsafe if isinstance(loop, asyncio.AbstractEventLoop) else loop.run_sync_soon
        # Without waiting for the loop: it may have stopped for good, and would keep this thread.
        with contextlib.suppress(RuntimeError):  # The event loop has closed: nobody waits any more.
            soon(_end_each, waiting)


def _end_each(waits: "Iterable[Job[Any]]") -> None:
    for job in waits:
        job.end_wait()


def _asyncio_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # There is no such loop in this thread.
        return None
