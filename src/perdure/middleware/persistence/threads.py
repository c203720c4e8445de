"""A lane: a bounded set of daemon threads for work that blocks.

A caller may give up on its job after its budget; the thread stays counted until the job returns, so a store that
hangs holds at most `size` threads and never the interpreter's exit. Neither `anyio.to_thread` (a shielded wait ignores
its budget, and an abandoned one frees its slot early) nor an executor (a hung job holds the exit) does this.
"""

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure.middleware.persistence.jobs import Job

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
        return Job(function).waited_for(self.submit, budget)

    def call_async(self, function: Callable[[], T], *, budget: float) -> Coroutine[Any, Any, T]:
        """As `call`, for callers on an event loop. The wait is shielded: cancellation takes effect after it."""
        return Job(function).awaited(self.submit, budget)

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


def _forget_all() -> None:
    for lane in _all_lanes:
        lane._forget()


if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=_forget_all)
