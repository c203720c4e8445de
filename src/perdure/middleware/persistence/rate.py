"""How many turns of one principal are kept in a minute, in this process. Nobody waits, and nobody else is affected."""

import os
import threading
import time
import weakref
from collections.abc import Callable

__all__ = ["Rate"]

_MINUTE = 60.0
_MOST_PRINCIPALS = 10_000
"""That are remembered: about a megabyte."""


class Rate:
    """A token bucket for each principal: it holds the turns of a minute, and is filled evenly.

    All that there is of a bucket is the moment at which it will be full again, so that a bucket which is full need not
    be remembered at all.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._full_at: dict[str, float] = {}
        _all_rates.add(self)

    def seconds_to_wait(self, principal: str, per_minute: int) -> float:
        """0 if a turn of `principal` may be kept now, which is counted; else the seconds until the next one may be."""
        each = _MINUTE / per_minute
        with self._lock:
            now = self._now()
            full_at = max(self._full_at.get(principal, now), now)
            # Less than a microsecond of float arithmetic must not cost the last turn of a minute.
            too_early = full_at + each - now - _MINUTE
            if too_early > 1e-6:
                return too_early
            if principal not in self._full_at and len(self._full_at) >= _MOST_PRINCIPALS:
                self._forget(now)
            self._full_at[principal] = full_at + each
            return 0.0

    def _forget(self, now: float) -> None:
        """Whose buckets are full; and if there are still too many, the half that is nearest to it."""
        by_moment = sorted((full_at, principal) for principal, full_at in self._full_at.items() if full_at > now)
        kept = by_moment if len(by_moment) < _MOST_PRINCIPALS else by_moment[_MOST_PRINCIPALS // 2 :]
        self._full_at = {principal: full_at for full_at, principal in kept}


_all_rates: "weakref.WeakSet[Rate]" = weakref.WeakSet()


def _after_fork() -> None:
    for rate in list(_all_rates):
        rate._lock = threading.Lock()  # a thread that the child does not have may hold the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
