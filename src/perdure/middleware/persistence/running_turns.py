"""The turns whose tools run in this process: their leases are renewed until they end.

A call puts its turn in and takes it out, which costs it two steps on a dictionary. One thread looks at what is there a
few times in each lease, and ends when there is nothing: all turns that have run for a while are renewed together, in
one round trip, and those that come and go between two looks cost the store nothing.
"""

import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeAlias

from perdure.errors import PerdureError, StoreError, StoreUnavailable
from perdure.logs import OnceAMinute, log
from perdure.middleware.persistence.ports import Clock, Store
from perdure.middleware.persistence.turn import Turn

__all__ = ["HeldTurn", "RunningTurns"]

_LOOKS_IN_A_LEASE = 3
"""So that two attempts may fail before anybody takes a turn for interrupted."""

_TRIED_AGAIN_AFTER = 1 / 12
"""Of a lease: when the store did not take a renewal."""

_TOO_YOUNG = 1 / 6
"""Of a lease: what has run for less than that is left for the next look. Most calls are over by then."""

_all_running: "weakref.WeakSet[RunningTurns]" = weakref.WeakSet()


_Running: TypeAlias = tuple[str, str, float]
"""A principal, the id of a turn of theirs, and since when it runs, on `time.monotonic()`."""


class HeldTurn:
    """That a turn runs here: until it is let go of, or nobody knows of it any more."""

    __slots__ = ("_among",)

    def __init__(self, among: dict[int, _Running]) -> None:
        self._among = among

    def let_go(self) -> None:
        self._among.pop(id(self), None)

    # A call whose seam was torn down on its way must not seem to run for ever.
    __del__ = let_go


class RunningTurns:
    def __init__(self, store: Store, clock: Clock, lease: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._is_watched = False
        self._said = OnceAMinute()
        self._forget()
        _all_running.add(self)

    def hold(self, turn: Turn) -> HeldTurn:
        """Renew the lease of `turn` from now on, until it is let go of."""
        held = HeldTurn(self._running)
        self._running[id(held)] = turn.principal, turn.id, time.monotonic()
        if not self._is_watched:
            self._watch()
        return held

    @property
    def count(self) -> int:
        return len(self._running)

    def __del__(self) -> None:
        self._gone.set()

    def _watch(self) -> None:
        with self._lock:
            if self._is_watched:
                return
            self._is_watched = True
        between = self._lease.total_seconds() / _LOOKS_IN_A_LEASE
        given = weakref.ref(self), self._gone, between
        try:
            threading.Thread(target=_renew_again_and_again, args=given, name="perdure-leases", daemon=True).start()
        except RuntimeError as error:  # The system gives no thread: the next call asks again.
            self._is_watched = False
            self._say(error, len(self._running))

    def renew(self) -> float | None:
        """Renew what has run for a while. The seconds until the next look; None if nothing runs, and nobody looks."""
        lease = self._lease.total_seconds()
        started_before = time.monotonic() - lease * _TOO_YOUNG
        due: dict[str, list[str]] = {}
        for principal, turn_id, since in list(self._running.values()):
            if since <= started_before:
                due.setdefault(principal, []).append(turn_id)
        if due and not self._were_renewed(due):
            return lease * _TRIED_AGAIN_AFTER
        # In this order, so that who comes meanwhile either is seen here, or sees that nobody looks.
        with self._lock:
            self._is_watched = False
            self._is_watched = bool(self._running)
        return lease / _LOOKS_IN_A_LEASE if self._is_watched else None

    def _were_renewed(self, due: Mapping[str, Sequence[str]]) -> bool:
        """False if that is to be tried again soon."""
        count = sum(map(len, due.values()))
        try:
            self._store.renew(due, self._clock.now() + self._lease)
        except StoreUnavailable as error:
            self._say(error, count)
            return False
        except StoreError as error:
            if len(due) == 1:
                self._say(error, count)
                return True  # It was refused: the next look is soon enough.
            # One principal that the store refuses holds up none of the others.
            went = [self._were_renewed({principal: turns}) for principal, turns in due.items()]
            return all(went)
        except Exception as error:  # noqa: BLE001 - no fault of a store may end the thread that renews the rest
            self._say(error, count)
            return False
        return True

    def _say(self, error: Exception, turns: int) -> None:
        if not self._said.is_due("turn.lease_not_renewed"):
            return
        reason, remedy = repr(error), "none, if that passes: it is tried again."
        if isinstance(error, PerdureError):
            reason, remedy = error.what, error.remedy
        log.warning(
            "turn.lease_not_renewed",
            what=f"The leases of {turns} running {'turn' if turns == 1 else 'turns'} could not be renewed ({reason})."
            " They are shown as interrupted when these are over; their answers are kept all the same.",
            remedy=remedy,
        )

    def _forget(self) -> None:
        self._running: dict[int, _Running] = {}
        self._lock = threading.Lock()
        self._gone = threading.Event()
        self._is_watched = False


def _renew_again_and_again(of: "weakref.ref[RunningTurns]", gone: threading.Event, seconds: float) -> None:
    """Holds no reference while it waits: what nobody else knows of need not be renewed."""
    pause: float | None = seconds
    while pause is not None and not gone.wait(pause):
        running = of()
        pause = running.renew() if running is not None else None
        del running


def _after_fork() -> None:
    for running in list(_all_running):
        running._forget()


if hasattr(os, "register_at_fork"):
    # A forked child has neither the thread nor the calls of its parent, which lives on and renews.
    os.register_at_fork(after_in_child=_after_fork)
