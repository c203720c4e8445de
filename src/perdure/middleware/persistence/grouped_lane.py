"""A lane whose jobs are less work together: what comes at once is done by one thread, in one call.

A thread for each of many jobs that wait for one commit costs more than the jobs: each is put to sleep and woken twice,
and stands in the queue for Python's lock. Here a thread is asked for when a job comes, and takes all that have come by
the time it begins. While it works the next is asked for, which waits a moment for it to end: what comes meanwhile is
done together, and a store that hangs keeps those that it has, and nobody else.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

from perdure.middleware.persistence.jobs import Job, wake_all
from perdure.middleware.persistence.threads import Lane, LaneFull

__all__ = ["GroupedLane"]

G = TypeVar("G")
T = TypeVar("T")

_PATIENCE = 0.005
"""Seconds that a group waits for the one before, which may hang, or be a long way off."""

_all_lanes: "weakref.WeakSet[GroupedLane[Any, Any]]" = weakref.WeakSet()


class GroupedLane(Generic[G, T]):
    """On the threads of `lane`. `alone` does one job. `together` is given what several jobs were given, and the context
    of each, of `most` at a time, in the context of none of them; None is its result for one that is to be done alone.
    What it raises is raised by all of them.
    """

    def __init__(
        self,
        lane: Lane,
        alone: Callable[[G], T],
        together: Callable[[Sequence[G], Sequence[Context]], Sequence[T | None]],
        *,
        most: int,
    ) -> None:
        self._lane = lane
        self._alone = alone
        self._together = together
        self._most = most
        self._forget()
        _all_lanes.add(self)

    def call(self, given: G, *, budget: float) -> T:
        """As `Lane.call`."""
        return _GroupedJob(self._alone, given).waited_for(self._submit, budget)

    def call_async(self, given: G, *, budget: float) -> Coroutine[Any, Any, T]:
        """As `Lane.call_async`."""
        return _GroupedJob(self._alone, given).awaited(self._submit, budget)

    def _submit(self, job: "_GroupedJob[G, T]") -> None:
        with self._lock:
            if self._is_asked_for:
                self._lane.look_for_room()  # It may wait for ever, behind those that hang.
            else:
                self._ask_for_thread()
            self._waiting.append(job)

    def _ask_for_thread(self) -> None:
        self._lane.submit(Job(self._take, Context()))
        self._is_asked_for = True

    def _take(self) -> None:
        refused: list[_GroupedJob[G, T]] = []
        with self._lock:
            if self._under_way:
                self._one_has_ended.wait(_PATIENCE)
            self._under_way += 1
            self._is_asked_for = False
            jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
            if self._waiting:
                try:
                    self._ask_for_thread()
                except LaneFull as error:
                    refused.extend(self._waiting)
                    self._waiting.clear()
                    for job in refused:
                        job.failed(error)
        wake_all(refused)
        try:
            if len(jobs) == 1:
                jobs[0].run()
            elif jobs:
                self._do_together(jobs)
        finally:
            with self._lock:
                self._under_way -= 1
                self._one_has_ended.notify()

    def _do_together(self, jobs: "Sequence[_GroupedJob[G, T]]") -> None:
        try:
            results = self._together([job.given for job in jobs], [job.context for job in jobs])
        except BaseException as error:  # noqa: BLE001 - handed to the callers, whatever it is
            for job in jobs:
                job.failed(error)
            wake_all(jobs)
            return
        done = []
        for job, result in zip(jobs, results, strict=True):
            if result is not None:
                job.ended(result)
                done.append(job)
        wake_all(done)
        for job, result in zip(jobs, results, strict=True):
            if result is None:
                self._do_alone(job)

    def _do_alone(self, job: "Job[T]") -> None:
        """On a thread of its own: it may have to wait for what the others need not wait for."""
        try:
            self._lane.submit(job)
        except LaneFull as error:
            job.failed(error)
            wake_all([job])

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._one_has_ended = threading.Condition(self._lock)
        self._under_way = 0
        self._waiting: deque[_GroupedJob[G, T]] = deque()
        self._is_asked_for = False


class _GroupedJob(Job[T], Generic[G, T]):
    def __init__(self, alone: Callable[[G], T], given: G) -> None:
        super().__init__(lambda: alone(given))
        self.given = given


def _forget_all() -> None:
    for lane in _all_lanes:
        lane._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)  # whoever was asked for is in the parent
