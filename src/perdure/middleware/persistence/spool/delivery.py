"""One attempt to hand something that waits to its store, and what becomes of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from perdure.errors import PerdureError, StoreError, StoreLeftAlone, StoreMisconfigured, StoreUnavailable
from perdure.logs import OnceAMinute, log
from perdure.middleware.persistence.breaker import Breaker

__all__ = ["Deliveries", "Delivery", "NotNow", "Stuck"]

MOST_ATTEMPTS = 20
"""Of one thing, while the store takes others."""

_HOLD = 5.0
"""Seconds between attempts while somebody must mend a setting, a key or the schema."""

_FIRST_SKIP, _LONGEST_SKIP = 0.25, 60.0
"""Seconds before another attempt with what failed; it doubles each time while others go through."""


class NotNow(Exception):
    """The store is away: nothing can be sent."""

    def __init__(self, reason: StoreUnavailable, seconds: float) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.seconds = seconds
        """Until it is worth another look."""


class Stuck(Exception):
    """This one could not be sent; others may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    name: str
    """Tells it from all others."""
    attempts: int
    send: Callable[[], None]
    drop: Callable[[], None]
    failed: Callable[[str], None]
    quarantine: Callable[[str], None]


class Deliveries:
    """To one store. Remembers what failed and when, so that what the store never takes does not hold up the rest."""

    def __init__(self, what: str, breaker: Breaker) -> None:
        self._what = what
        self._breaker = breaker
        self._failed_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        """How often each failed while others went through."""
        self._said = OnceAMinute()

    def attempt(self, delivery: Delivery) -> None:
        """Send it and drop it, or put it into quarantine if the store will never take it.

        Raises:
            NotNow: The store is away.
            Stuck: It failed, and may not the next time.
        """
        if (seconds := self.seconds_until(delivery.name)) > 0:
            raise Stuck(f"next attempt in {seconds:.0f} s")
        try:
            self._breaker.admit()
            delivery.send()
        except StoreLeftAlone as error:
            raise NotNow(error, self._breaker.seconds_to_probe()) from error
        except StoreMisconfigured as error:
            self._breaker.succeeded()  # It answers.
            self.say(error)
            raise NotNow(error, _HOLD) from error
        except StoreUnavailable as error:
            self._has_failed(delivery, error)
        except StoreError as error:
            self._breaker.succeeded()  # It answers: this is its last word.
            self._forget(delivery.name)
            delivery.quarantine(_reason(error))
            log.error(
                "spool.quarantined",
                what=f"The store refused a {self._what} that waited for it ({_reason(error)}).",
                remedy="see `perdure spool quarantine`; it holds up nothing else.",
                id=delivery.name,
            )
        except Exception as error:  # noqa: BLE001 - no fault of a store may end the thread that sends the rest
            self._has_failed(delivery, error)
        else:
            self._breaker.succeeded()
            self._forget(delivery.name)
            delivery.drop()

    def seconds_until(self, name: str) -> float:
        """Before what is called so may be sent; 0 or less if it may be now."""
        failed_at = self._failed_at.get(name)
        if failed_at is None:
            return 0.0
        pause = min(_FIRST_SKIP * 2.0 ** self._failures.get(name, 0), _LONGEST_SKIP)
        return failed_at + pause - time.monotonic()

    def say(self, error: Exception) -> None:
        """Log why something still waits, once a minute each: no result of a call may tell of it."""
        if self._said.is_due(reason := _reason(error)):
            log.warning(
                "spool.not_sent",
                what=f"A {self._what} that waits could not be sent ({reason}).",
                remedy="none, if that passes: it is tried again. `perdure spool status` says what waits.",
            )

    def _has_failed(self, delivery: Delivery, error: Exception) -> None:
        """
        Raises:
            NotNow: The store is away.
            Stuck: Only this one failed.
        """
        self.say(error)
        before = self._failed_at.get(delivery.name)
        others_went = before is not None and self._breaker.has_succeeded_since(before)
        if not others_went or self._breaker.is_open:
            self._breaker.failed(_reason(error))
        self._failed_at[delivery.name] = time.monotonic()
        if others_went:
            self._failures[delivery.name] = self._failures.get(delivery.name, 0) + 1
            if delivery.attempts + 1 >= MOST_ATTEMPTS:
                self._forget(delivery.name)
                delivery.quarantine(f"{_reason(error)} ({MOST_ATTEMPTS} times, while others were taken)")
                return
            delivery.failed(_reason(error))
        if self._breaker.is_open:
            raise NotNow(_as_unavailable(error), self._breaker.seconds_to_probe()) from error
        raise Stuck(_reason(error)) from error

    def _forget(self, name: str) -> None:
        self._failed_at.pop(name, None)
        self._failures.pop(name, None)


def _reason(error: Exception) -> str:
    return error.what if isinstance(error, PerdureError) else f"{type(error).__name__}: {error}"


def _as_unavailable(error: Exception) -> StoreUnavailable:
    return error if isinstance(error, StoreUnavailable) else StoreUnavailable(_reason(error))
