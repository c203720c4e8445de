"""A store between the test and a real one: it keeps what the real one keeps, and fails when the test says so."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias, TypeVar, get_args

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.ports import GroupingStore, Store, grouping_of
from perdure.middleware.persistence.question import Question
from perdure.middleware.persistence.turn import (
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    StoredFile,
    Turn,
    Window,
)
from perdure.middleware.persistence.upkeep import Hit, HitPosition, Removed, Statistics

__all__ = ["FaultyStore", "Hang", "Operation"]

T = TypeVar("T")

Operation: TypeAlias = Literal[
    "begin",
    "finish",
    "renew",
    "turns",
    "conversations",
    "file",
    "files",
    "search",
    "fork",
    "delete",
    "purge",
    "forget",
    "statistics",
]

_OPERATIONS: tuple[Operation, ...] = get_args(Operation)


class FaultyStore:
    """Passes everything on to `inner`, which stays the caller's to close, except for the faults it was given.

    Each fault is for the operations named, or for all if none is; `times` says for how many calls, None until `heal`.
    Faults of one operation take place in the order in which they were given.
    """

    def __init__(self, inner: Store, *, blocking: bool | None = None) -> None:
        self.inner = inner
        self.blocking = inner.blocking if blocking is None else blocking
        grouping = grouping_of(inner)
        self.most_together = grouping.most_together if grouping is not None else 1
        self._lock = threading.Lock()
        self._faults: dict[Operation, list[_Fault]] = {operation: [] for operation in _OPERATIONS}
        self._calls: Counter[Operation] = Counter()
        self._hangs: list[Hang] = []

    # ── what the test orders ─────────────────────────────────────────────────────────────────────────────────

    def fail(self, *operations: Operation, error: Exception | None = None, times: int | None = None) -> None:
        """Raise `error` (else `StoreUnavailable`) before anything is kept."""
        self._order(operations, times, before=_raising(error))

    def lose_reply(self, *operations: Operation, error: Exception | None = None, times: int | None = None) -> None:
        """Let the real store do its work, then raise: the write took place and its writer does not know."""
        self._order(operations, times, after=_raising(error))

    def hang(self, *operations: Operation, times: int | None = None) -> "Hang":
        """Hold the caller until `Hang.release` or `heal`; then the work is done after all, as late as that."""
        hang = Hang()
        with self._lock:
            self._hangs.append(hang)
        self._order(operations, times, before=hang.hold)
        return hang

    def delay(
        self,
        *operations: Operation,
        seconds: float,
        times: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Do the work `seconds` late."""
        self._order(operations, times, before=lambda: sleep(seconds))

    def heal(self) -> None:
        """Forget all faults, and let go of whoever hangs."""
        with self._lock:
            for faults in self._faults.values():
                faults.clear()
            hangs, self._hangs = self._hangs, []
        for hang in hangs:
            hang.release()

    def calls(self, operation: Operation) -> int:
        """How often `operation` was asked for, those that failed included."""
        with self._lock:
            return self._calls[operation]

    # ── what a store does ────────────────────────────────────────────────────────────────────────────────────

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        return self._through("begin", lambda: self.inner.begin(turn, window))

    def finish(self, turn: Turn) -> FinishedTurn:
        return self._through("finish", lambda: self.inner.finish(turn))

    def begin_together(self, wanted: Sequence[tuple[Turn, Window]]) -> Sequence[BegunTurn | None]:
        """One `begin` for the faults and the count, of all these turns: they share their fate."""
        inner = self.inner
        if not isinstance(inner, GroupingStore):
            return [None] * len(wanted)
        return self._through("begin", lambda: inner.begin_together(wanted))

    def finish_together(self, turns: Sequence[Turn]) -> Sequence[FinishedTurn | None]:
        """As `begin_together`, one `finish`."""
        inner = self.inner
        if not isinstance(inner, GroupingStore):
            return [None] * len(turns)
        return self._through("finish", lambda: inner.finish_together(turns))

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        self._through("renew", lambda: self.inner.renew(turns, lease_until))

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        return self._through("turns", lambda: self.inner.turns(principal, continuation_id, after=after, limit=limit))

    def conversations(
        self,
        principal: str | None = None,
        continuation_id: str | None = None,
        *,
        before: tuple[datetime, str, str] | None = None,
        limit: int = 100,
    ) -> list[ConversationSummary]:
        return self._through(
            "conversations", lambda: self.inner.conversations(principal, continuation_id, before=before, limit=limit)
        )

    def file(self, principal: str, key: str) -> StoredFile | None:
        return self._through("file", lambda: self.inner.file(principal, key))

    def files(
        self, principal: str, continuation_id: str | None = None, name: str | None = None, *, limit: int = 1000
    ) -> list[StoredFile]:
        return self._through("files", lambda: self.inner.files(principal, continuation_id, name, limit=limit))

    def search(self, question: Question, *, before: HitPosition | None = None, limit: int = 20) -> list[Hit]:
        return self._through("search", lambda: self.inner.search(question, before=before, limit=limit))

    def fork(
        self, principal: str, continuation_id: str, place: int, new_id: str, *, minted: bool = False
    ) -> ConversationSummary:
        return self._through("fork", lambda: self.inner.fork(principal, continuation_id, place, new_id, minted=minted))

    def delete(self, principal: str, continuation_id: str) -> Removed:
        return self._through("delete", lambda: self.inner.delete(principal, continuation_id))

    def purge(self, *, limit: int = 100, dry_run: bool = False) -> Removed:
        return self._through("purge", lambda: self.inner.purge(limit=limit, dry_run=dry_run))

    def forget(self, principal: str, *, limit: int = 100) -> Removed:
        return self._through("forget", lambda: self.inner.forget(principal, limit=limit))

    def statistics(self, principal: str | None = None) -> Statistics:
        return self._through("statistics", lambda: self.inner.statistics(principal))

    def close(self) -> None:
        self.heal()

    def _through(self, operation: Operation, work: Callable[[], T]) -> T:
        with self._lock:
            self._calls[operation] += 1
            fault = self._next_fault(operation)
        if fault is None:
            return work()
        fault.before()
        reply = work()
        fault.after()
        return reply

    def _next_fault(self, operation: Operation) -> "_Fault | None":
        faults = self._faults[operation]
        if not faults:
            return None
        fault = faults[0]
        if fault.times is not None:
            fault.times -= 1
            if fault.times == 0:
                faults.pop(0)
        return fault

    def _order(
        self,
        operations: tuple[Operation, ...],
        times: int | None,
        *,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        if times is not None and times < 1:
            raise ValueError(f"A fault takes place at least once: times={times!r}")
        with self._lock:
            for operation in operations or _OPERATIONS:
                self._faults[operation].append(_Fault(before, after, times))


class Hang:
    """Callers that are held inside a store."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        """Set once a caller is held."""
        self._released = threading.Event()

    def release(self) -> None:
        """Let go of whoever is held, and hold nobody from now on."""
        self._released.set()

    def hold(self) -> None:
        self.entered.set()
        self._released.wait()


@dataclass(slots=True)
class _Fault:
    before: Callable[[], None]
    after: Callable[[], None]
    times: int | None = field(default=None)


def _raising(error: Exception | None) -> Callable[[], None]:
    def fail() -> None:
        # A new one each time: an exception that is raised twice carries the traceback of both.
        raise error or StoreUnavailable("The store was told to fail.", remedy="call FaultyStore.heal().")

    return fail
