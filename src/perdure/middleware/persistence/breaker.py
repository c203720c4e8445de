"""Leaves a store alone that failed several times in a row, so that calls need not wait for it one after another."""

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable

from perdure.errors import StoreError, StoreLeftAlone, StoreMisconfigured, StoreUnavailable, TurnsWaiting

__all__ = ["Breaker"]

_PROBE_GRACE = 5.0
"""Seconds for which calls leave the probe to whoever sends what waits: a probe may take as long as a store can hang."""


_all_breakers: "weakref.WeakSet[Breaker]" = weakref.WeakSet()


class Breaker:
    """Closed while the store answers. After `failures` in a row it opens; a single attempt may try the store again
    after a pause, which doubles up to `longest_pause` as long as such attempts fail. Pauses are in seconds.
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        first_pause: float = 0.5,
        longest_pause: float = 15.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_failures = failures
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._now = now
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = first_pause
        self._open_until: float | None = None
        self._is_probed = False
        self._reason = ""
        self._succeeded_at = -1.0
        self._last_error: Callable[[], StoreUnavailable | None] = lambda: None
        _all_breakers.add(self)

    @classmethod
    def never_opening(cls) -> "Breaker":
        """For a store with no spool before it: to try is all that can be done."""
        return cls(failures=sys.maxsize)

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    def watching(self) -> "_Watching":
        """Around an attempt on behalf of a call: it is refused, or notes how it went. Probes are left to others, for
        a while.

        Raises:
            StoreLeftAlone: The store is given some time.
        """
        return _Watching(self)

    def admit(self, *, grace: float = 0.0) -> None:
        """Let an attempt through, or not.

        `grace`: seconds after the pause for which the probe is left to somebody else.

        Raises:
            StoreLeftAlone: Not now.
        """
        if not self.is_open:
            return
        with self._lock:
            until = self._open_until
            if until is None:
                return
            if self._now() < until + grace:
                raise StoreLeftAlone(
                    f"The store failed several times in a row and is left alone for a while ({self._reason}).",
                    remedy="look at the store; what waits is sent when it is back.",
                )
            self._open_until = self._now() + self._pause  # This one is the probe; the others go on waiting.
            self._is_probed = True

    def succeeded(self) -> None:
        self._succeeded_at = self._now()
        if self._failures or self._open_until is not None:
            with self._lock:
                self._failures = 0
                self._pause = self._first_pause
                self._open_until = None
                self._is_probed = False

    def failed(self, reason: str) -> None:
        with self._lock:
            self._failures += 1
            self._reason = reason
            if self._open_until is not None:
                if self._is_probed:  # If not, it was under way already, as many may be, when others failed.
                    self._is_probed = False
                    self._pause = min(2 * self._pause, self._longest_pause)
                    self._open_until = self._now() + self._pause
            elif self._failures >= self._most_failures:
                self._open_until = self._now() + self._pause

    def failed_with(self, error: StoreUnavailable) -> None:
        """As `failed`. Of calls whose turns went to the store together each is told the same fault: it counts once."""
        if self._last_error() is not error:
            self._last_error = weakref.ref(error)  # which would keep what its callers hold
            self.failed(error.what)

    def seconds_to_probe(self) -> float:
        """Until an attempt would be admitted; 0 if it would be now."""
        until = self._open_until
        return 0.0 if until is None else max(0.0, until - self._now())

    def has_succeeded_since(self, moment: float) -> bool:
        """Whether the store answered anybody after `moment`, on the clock of `now`."""
        return self._succeeded_at > moment


class _Watching:
    """No generator: it stands around every operation."""

    __slots__ = ("_breaker",)

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def __enter__(self) -> None:
        self._breaker.admit(grace=_PROBE_GRACE)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._breaker.succeeded()
        elif isinstance(error, (StoreLeftAlone, StoreMisconfigured, TurnsWaiting)):
            pass  # They are known at once: there is no need to spare anybody a wait.
        elif isinstance(error, StoreUnavailable):
            self._breaker.failed_with(error)
        elif isinstance(error, StoreError):
            self._breaker.succeeded()  # It answers, if with a refusal.


def _after_fork() -> None:
    for breaker in list(_all_breakers):
        breaker._lock = threading.Lock()  # a thread that the child does not have may hold the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
