"""The steps of a call that may block: each on the threads that are meant for it, within the time that it has."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar, assert_never

from perdure.errors import StoreTimeout, StoreUnavailable
from perdure.middleware.persistence.runtime import Runtime
from perdure.middleware.persistence.telemetry import callers_meta
from perdure.middleware.persistence.threads import Lane, LaneFull

__all__ = ["CallSteps", "Step", "Waits"]

T = TypeVar("T")


class Waits(Enum):
    """What a step waits for: whose threads do the work, and whose time it takes."""

    STORE = "store"
    FILES = "file store"
    DISK = "spool"
    """All that needs the local disk alone."""


_REMEDIES = {
    Waits.STORE: "look at the store; the setting operation_timeout is that time, in seconds",
    Waits.FILES: "look at the file store; the setting file_timeout is that time, in seconds",
    Waits.DISK: "look at the disk of the data directory",
}

_DISK_SECONDS = 5.0
"""What a turn may take to be written to the local disk."""


@dataclass(slots=True, kw_only=True)  # frozen, it would take three times as long to make
class Step(Generic[T]):
    """Work that may block, and what to do with what came of it."""

    work: Callable[[], T]
    then: Callable[[T], None]
    failed: Callable[[Exception], None]
    waits: Waits = Waits.STORE


class CallSteps:
    """Takes the steps of one call, twice: since Python has two kinds of functions.

    What it is given is asked for the next step when the one before has been taken, so that steps may depend on it.
    """

    def __init__(self, runtime: Runtime, *, file_seconds: float, meta: Mapping[str, Any]) -> None:
        """`meta` came with the request: it may name the span of whoever calls."""
        self._runtime = runtime
        self._meta = meta
        self._store_seconds = runtime.settings.operation_timeout
        """What is left of it, for all steps together."""
        self._file_seconds = file_seconds
        self.have_waited = False
        """A step was taken by another thread: meanwhile the call may have been cancelled."""

    def take(self, steps: "Iterable[Step[Any]]") -> None:
        callers_meta.set(self._meta)  # never reset: only our own spans look at it, and each call sets its own
        for step in steps:
            try:
                if self._hops(step):
                    with self._in_time(step) as (lane, seconds):
                        result = lane.call(step.work, budget=seconds)
                else:
                    result = step.work()
                step.then(result)
            except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
                step.failed(error)

    async def take_async(self, steps: "Iterable[Step[Any]]") -> None:
        callers_meta.set(self._meta)  # never reset: only our own spans look at it, and each call sets its own
        for step in steps:
            try:
                if self._hops(step):
                    self.have_waited = True
                    with self._in_time(step) as (lane, seconds):
                        result = await lane.call_async(step.work, budget=seconds)
                else:
                    result = step.work()
                step.then(result)
            except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
                step.failed(error)

    def _hops(self, step: "Step[Any]") -> bool:
        return step.waits is not Waits.STORE or self._runtime.engine.store.blocking

    @contextmanager
    def _in_time(self, step: "Step[Any]") -> Iterator[tuple[Lane, float]]:
        """The lane for `step`, and the seconds it has.

        Raises:
            StoreTimeout: Nothing is left, or it was used up.
            StoreLeftAlone: The store failed so often that it is given some time.
            StoreUnavailable: So many calls wait already that this one is not let in.
        """
        match step.waits:
            case Waits.STORE:
                started = time.monotonic()
                try:
                    with self._runtime.breaker.watching(), _in_words(step.waits):
                        if self._store_seconds <= 0:
                            raise TimeoutError
                        yield self._runtime.lane, self._store_seconds
                finally:
                    self._store_seconds -= time.monotonic() - started
            case Waits.FILES:
                with _in_words(step.waits):
                    yield self._runtime.file_lane, self._file_seconds + 1
            case Waits.DISK:
                with _in_words(step.waits):
                    yield self._runtime.disk_lane, _DISK_SECONDS
            case what:
                assert_never(what)


@contextmanager
def _in_words(waits: Waits) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise StoreTimeout(
            f"The {waits.value} did not answer within the time it has in one call.", remedy=f"{_REMEDIES[waits]}."
        ) from error
    except LaneFull as error:
        raise StoreUnavailable(
            f"All threads wait for the {waits.value}, which does not answer.", remedy=f"{_REMEDIES[waits]}."
        ) from error
