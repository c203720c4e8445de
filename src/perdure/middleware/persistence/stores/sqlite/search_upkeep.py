"""Keeps a search index nearly up to date in the process that keeps turns, so that no search has much to add first.

Only where somebody has searched before: whoever never does pays a count for each turn, and no space on the disk. After
some hundred turns a thread adds them, some 10 ms of work at a time with long rests, and ends. It reads the
database as anybody else does, and writes to the index alone, so that no turn waits for it.
"""

import sqlite3
import threading
import time

from perdure.errors import PerdureError
from perdure.logs import OnceAMinute, log
from perdure.middleware.persistence.sqlite_file.fork_gate import ForkGate
from perdure.middleware.persistence.stores.sqlite.search_file import SearchFileReplaced
from perdure.middleware.persistence.stores.sqlite.search_index import SearchIndex

__all__ = ["SearchUpkeep"]

_WORTH_IT = 500
"""Turns: a search adds so many in 10 ms itself."""

_AT_ONCE = 500
"""Turns in one transaction. A fork, and the end of the process, wait for no more than that."""

_REST = 50
"""Times as long as it has worked: at most 2 % of a processor."""

_REST_AFTER_FAULT_SECONDS = 60.0
_WAIT_SECONDS = 0.5
_LONGEST_END_SECONDS = 1.0


class SearchUpkeep:
    def __init__(self, index: SearchIndex, gate: ForkGate) -> None:
        """`gate` is that of the database which `index` reads."""
        self._index = index
        self._gate = gate
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
                with self._gate.inside():
                    there_may_be_more = self._index.add(_AT_ONCE, wait_seconds=_WAIT_SECONDS)
            except SearchFileReplaced:
                pass
            except (sqlite3.Error, OSError, PerdureError) as error:
                self._leave_off(error)
                return
            rest = (time.monotonic() - began) * _REST
            self._rests_until = time.monotonic() + rest

    def _leave_off(self, error: Exception) -> None:
        """For a while. A search adds what is missing, and says what is wrong."""
        self._rests_until = time.monotonic() + _REST_AFTER_FAULT_SECONDS
        if self._said.is_due("search.index_not_kept_up"):
            log.debug(
                "search.index_not_kept_up", what=f"{self._index.path} could not be brought up to date: {error!r}."
            )
