"""A lane: a bounded set of daemon threads for work that blocks.

A caller may give up on its job after its budget; the thread stays counted until the job returns, so a store that
hangs holds at most `size` threads and never the interpreter's exit. Neither `anyio.to_thread` (a shielded wait ignores
its budget, and an abandoned one frees its slot early) nor an executor (a hung job holds the exit) does this.
"""

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio
import anyio.lowlevel

__all__ = ["Job", "Lane", "LaneFull", "wake_all"]

T = TypeVar("T")

_all_lanes: "weakref.WeakSet[Lane]" = weakref.WeakSet()


class LaneFull(Exception):
    """Every thread of the lane is held by a job that does not come back."""


class Lane:
    """`size` threads. More jobs than that wait their turn, unless the ones before them hang: then `LaneFull` at once.

    A job hangs that has run for `hanging_after` seconds.
    """

    def __init__(self, name: str, size: int = 32, *, hanging_after: float = 1.0) -> None:
        self.name = name
        self.size = size
        self.hanging_after = hanging_after
        self._forget()
        _all_lanes.add(self)

    def call(self, function: Callable[[], T], *, budget: float) -> T:
        """Run `function` on the lane and wait up to `budget` seconds for it. For callers that may block.

        Raises:
            TimeoutError: The budget is used up; `function` goes on in its thread.
            LaneFull: At once, when every thread is held by a job that hangs.
        """
        return Job(function).waited_for(self.submit, budget)

    async def call_async(self, function: Callable[[], T], *, budget: float) -> T:
        """As `call`, for callers on an event loop. The wait is shielded: cancellation takes effect after it."""
        return await Job(function).awaited(self.submit, budget)

    def submit(self, job: "Job[Any]") -> None:
        """For who waits by himself.

        Raises:
            LaneFull: As with `call`.
        """
        with self._lock:
            self._look_for_room()
            self._unfinished += 1
            start_another = self._threads < min(self._unfinished, self.size)
            self._threads += start_another
        if start_another:
            self._start_another()
        self._jobs.put(job.run)

    def look_for_room(self) -> None:
        """For who has a job that another is to bring along.

        Raises:
            LaneFull: As with `call`.
        """
        with self._lock:
            self._look_for_room()

    def _look_for_room(self) -> None:
        if len(self._running) >= self.size and self._all_hang():
            raise LaneFull(self.name)

    def _all_hang(self) -> bool:
        """Whether none of the threads can be expected back soon: the youngest job tells."""
        return time.monotonic() - max(self._running.values()) > self.hanging_after

    def _start_another(self) -> None:
        """
        Raises:
            RuntimeError: The system gives no thread, and there is none yet that would do the job.
        """
        try:
            threading.Thread(target=self._work, name=f"perdure-{self.name}", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._threads -= 1
                if self._threads == 0:
                    self._unfinished -= 1
                    raise

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            run = self._jobs.get()
            with self._lock:
                self._running[me] = time.monotonic()
            try:
                run()
            finally:
                del run  # which keeps what its caller had, and the next may not come for hours
                with self._lock:
                    self._running.pop(me, None)
                    self._unfinished -= 1

    def _forget(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0
        """Jobs that run or wait."""
        self._running: dict[int, float] = {}
        """Since when each busy thread runs its job, on `time.monotonic()`."""


class Job(Generic[T]):
    """`function`, to be run once: in the context of who made it, if no other is given."""

    _soon: Callable[..., object] | None = None
    """Calls a function on the event loop of who waits; None of one that waits in a thread, or of nobody."""

    def __init__(self, function: Callable[[], T], context: contextvars.Context | None = None) -> None:
        self._function = function
        self.context = contextvars.copy_context() if context is None else context
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._raised_in: tuple[TracebackType | None, BaseException | None] = (None, None)
        self._set: Callable[[], object] = _nobody_waits

    def run(self) -> None:
        try:
            self.ended(self.context.run(self._function))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            self.failed(error)
        wake_all([self])

    def ended(self, result: T) -> None:
        """By other means than `run`. Who waits is woken by `wake_all`."""
        self._result.append(result)

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
        self._set = done.set
        submit(self)
        if not done.wait(budget):
            raise TimeoutError
        return self._outcome()

    async def awaited(self, submit: Callable[[Self], None], budget: float) -> T:
        """As `waited_for`, on an event loop. The wait is shielded: cancellation takes effect after it."""
        token: Any = anyio.lowlevel.current_token()
        loop = token.native_token
        if not isinstance(loop, asyncio.AbstractEventLoop):
            return await self._awaited_in_trio(submit, budget, loop)
        done = loop.create_future()
        self._soon, self._set = loop.call_soon_threadsafe, partial(_end, done)
        submit(self)
        # One scope: with `anyio.Event` and `fail_after` this takes twice as long, and is done twice in a turn.
        with anyio.CancelScope(shield=True, deadline=loop.time() + budget):
            await done
            return self._outcome()
        raise TimeoutError

    async def _awaited_in_trio(self, submit: Callable[[Self], None], budget: float, token: Any) -> T:
        done = anyio.Event()
        self._soon, self._set = token.run_sync_soon, done.set
        submit(self)
        with anyio.fail_after(budget, shield=True):
            await done.wait()
        return self._outcome()

    def _outcome(self) -> T:
        error = self._error
        if error is not None:
            # Without what others added, who were told before: where they were, and what they were about.
            traceback, error.__context__ = self._raised_in
            raise error.with_traceback(traceback)
        return self._result[0]


def wake_all(jobs: "Iterable[Job[Any]]") -> None:
    """Whoever waits for these, which have ended or failed: an event loop once for all that wait on it."""
    by_loop: dict[Callable[..., object], list[Callable[[], object]]] = {}
    for job in jobs:
        if job._soon is None:
            job._set()
        else:
            by_loop.setdefault(job._soon, []).append(job._set)
    for soon, waiting in by_loop.items():
        # Without waiting for the loop: it may have stopped for good, and would keep this thread.
        with contextlib.suppress(RuntimeError):  # The event loop has closed: nobody waits any more.
            soon(_call_each, waiting)


def _call_each(functions: Iterable[Callable[[], object]]) -> None:
    for function in functions:
        function()


def _end(future: "asyncio.Future[None]") -> None:
    if not future.done():  # Who waited has given up.
        future.set_result(None)


def _nobody_waits() -> None:
    pass


def _forget_all() -> None:
    for lane in _all_lanes:
        lane._forget()


if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=_forget_all)
