"""Keeps a search index nearly up to date in the process that keeps turns, so that no search has much to add first.

Only where somebody has searched before: whoever never does pays a count for each turn, and no space for an index. After
some hundred turns a thread adds them, some 10 ms of work at a time with long rests, and ends. No turn waits for it.
"""

import threading
import time
from typing import Protocol

from perdure.errors import PerdureError
from perdure.logs import OnceAMinute, log

__all__ = ["KeptIndex", "SearchUpkeep"]

_WORTH_IT = 500
"""Turns: a search adds so many in 10 ms itself, or in 200 in Postgres."""

_REST_AFTER_FAULT_SECONDS = 60.0
_LONGEST_END_SECONDS = 1.0


class KeptIndex(Protocol):
    where: str
    """Names it to people."""
    rest: float
    """Times as long as adding took: of 50, adding takes at most 2 % of a processor."""
    faults: tuple[type[Exception], ...]
    """What `add_some` may raise besides errors of ours."""

    def is_wanted(self) -> bool:
        """Whether anybody has ever searched here, as far as that can be told without asking a server."""
        ...

    def add_some(self) -> bool:
        """Add some of what is missing: the end of the process waits for no more. Whether there may be more."""
        ...


class SearchUpkeep:
    def __init__(self, index: KeptIndex) -> None:
        self._index = index
        self._faults: tuple[type[Exception], ...] = (PerdureError, *index.faults)
        self._said = OnceAMinute()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()
        self._kept = 0
        self._rests_until = 0.0

    def count_turn(self) -> None:
        """One was kept. Two threads may count as one: it is near enough."""
        self._kept += 1
        if self._kept >= _WORTH_IT:
            self._start()

    def stop(self) -> None:
        """Until turns are counted again."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join(_LONGEST_END_SECONDS)

    def _start(self) -> None:
        if time.monotonic() < self._rests_until or not self._starting.acquire(blocking=False):
            return
        try:
            # In a forked child its parent's thread is not alive.
            if self._thread is not None and self._thread.is_alive():
                return
            self._kept = 0
            if not self._index.is_wanted():
                return
            self._ends = threading.Event()
            self._thread = threading.Thread(target=self._work, args=(self._ends,), name="perdure-search", daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:  # The system gives no thread, or says nothing of the file.
            self._leave_off(error)
        finally:
            self._starting.release()

    def _work(self, ends: threading.Event) -> None:
        there_may_be_more, rest = True, 0.0
        while there_may_be_more and not ends.wait(rest):
            began = time.monotonic()
            try:
                there_may_be_more = self._index.add_some()
            except self._faults as error:
                self._leave_off(error)
                return
            rest = (time.monotonic() - began) * self._index.rest
            self._rests_until = time.monotonic() + rest

    def _leave_off(self, error: Exception) -> None:
        """For a while. A search adds what is missing, and says what is wrong."""
        self._rests_until = time.monotonic() + _REST_AFTER_FAULT_SECONDS
        if self._said.is_due("search.index_not_kept_up"):
            log.debug(
                "search.index_not_kept_up", what=f"{self._index.where} could not be brought up to date: {error!r}."
            )
