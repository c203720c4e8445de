"""A lane: a bounded set of daemon threads for work that blocks.

A caller may give up on its job after its budget; the thread stays counted until the job returns, so a store that
hangs holds at most `size` threads and never the interpreter's exit. Neither `anyio.to_thread` (a shielded wait ignores
its budget, and an abandoned one frees its slot early) nor an executor (a hung job holds the exit) does this.
"""

import contextlib
import contextvars
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

__all__ = ["Lane", "LaneFull"]

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
        job = _Job(function)
        done = threading.Event()
        job.when_done = done.set
        self._submit(job)
        if not done.wait(budget):
            raise TimeoutError
        return job.outcome()

    async def call_async(self, function: Callable[[], T], *, budget: float) -> T:
        """As `call`, for callers on an event loop. The wait is shielded: cancellation takes effect after it."""
        job = _Job(function)
        done = anyio.Event()
        token: Any = anyio.lowlevel.current_token()

        def wake() -> None:
            # Without waiting for the loop: it may have stopped for good, and would keep this thread.
            soon = getattr(token.native_token, "call_soon_threadsafe", None) or token.native_token.run_sync_soon
            with contextlib.suppress(RuntimeError):  # The event loop has closed: nobody waits any more.
                soon(done.set)

        job.when_done = wake
        self._submit(job)
        with anyio.CancelScope(shield=True), anyio.fail_after(budget):
            await done.wait()
        return job.outcome()

    def _submit(self, job: "_Job[T]") -> None:
        with self._lock:
            if len(self._running) >= self.size and self._all_hang():
                raise LaneFull(self.name)
            self._unfinished += 1
            start_another = self._threads < min(self._unfinished, self.size)
            self._threads += start_another
        if start_another:
            threading.Thread(target=self._work, name=f"perdure-{self.name}", daemon=True).start()
        self._jobs.put(job.run)

    def _all_hang(self) -> bool:
        """Whether none of the threads can be expected back soon: the youngest job tells."""
        return time.monotonic() - max(self._running.values()) > self.hanging_after

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            run = self._jobs.get()
            with self._lock:
                self._running[me] = time.monotonic()
            try:
                run()
            finally:
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


class _Job(Generic[T]):
    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._context = contextvars.copy_context()
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.when_done: Callable[[], None] = lambda: None

    def run(self) -> None:
        try:
            self._result.append(self._context.run(self._function))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            self._error = error
        self.when_done()

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]


def _forget_all() -> None:
    for lane in _all_lanes:
        lane._forget()


if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=_forget_all)
