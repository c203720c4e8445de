"""A clock that stands still until the test moves it."""

import threading
from datetime import UTC, datetime, timedelta

__all__ = ["FrozenClock"]


class FrozenClock:
    """May be read and moved from several threads at once."""

    def __init__(self, at: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._lock = threading.Lock()
        self._now = _with_zone(at)

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def advance(self, by: timedelta | float) -> datetime:
        """Move by so much, a number being seconds, and tell the new time. Backwards too: real clocks do it."""
        with self._lock:
            self._now += by if isinstance(by, timedelta) else timedelta(seconds=by)
            return self._now

    def set(self, at: datetime) -> None:
        with self._lock:
            self._now = _with_zone(at)


def _with_zone(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError(f"A clock's time needs a zone: {at!r}")
    return at.astimezone(UTC)
