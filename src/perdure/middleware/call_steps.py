"""The steps of a call that may block: each on the threads that are meant for it, within the time that it has.

What happens to a call is written once, as coroutines that await nothing but these steps. A seam on an event loop awaits
the coroutine. One in a thread of its own runs it `in_place`: then each step waits in that thread. A step that does not
block is taken where it stands, by both.
"""

import time
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from perdure.errors import StoreTimeout, StoreUnavailable
from perdure.middleware.persistence.redaction import Redactor
from perdure.middleware.persistence.runtime import Runtime
from perdure.middleware.persistence.telemetry import callers_meta
from perdure.middleware.persistence.threads import LaneFull
from perdure.middleware.persistence.turn import BegunTurn, FinishedTurn, Turn, Window, is_larger

__all__ = ["CallSteps"]

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G")
T_co = TypeVar("T_co", covariant=True)
G_contra = TypeVar("G_contra", contravariant=True)


class _Waits(Enum):
    """What a step waits for."""

    STORE = "store"
    FILES = "file store"
    DISK = "spool"


_REMEDIES = {
    _Waits.STORE: "look at the store; the setting operation_timeout is that time, in seconds",
    _Waits.FILES: "look at the file store; the setting file_timeout is that time, in seconds",
    _Waits.DISK: "look at the disk of the data directory",
}

_LONG = 64_000
"""Characters of a prompt or an answer which go to the store by themselves: others would wait until they are written
down."""

_LARGE = 256_000
"""The same of all that is among the arguments, or in the result: documents and pictures."""

_DISK_SECONDS = 5.0
"""What a turn may take to be written to the local disk."""


class CallSteps:
    """Of one call."""

    have_waited = False
    """A step was taken by another thread while the event loop went on: meanwhile the call may have been cancelled."""
    are_in_place = False
    """They are waited for in the thread that takes them."""

    def __init__(self, runtime: Runtime, file_seconds: float, meta: Mapping[str, Any]) -> None:
        """`meta` came with the request: it may name the span of whoever calls."""
        self._runtime = runtime
        self._meta = meta
        self._store_seconds = runtime.settings.operation_timeout
        """What is left of it, for all steps together."""
        self._file_seconds = file_seconds

    def in_place(self, course: Coroutine[Any, Any, T]) -> T:
        """What `course` gives, which awaits nothing but steps of this call: all of them wait in this thread."""
        self.are_in_place = True
        try:
            course.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            self.are_in_place = False
            course.close()
        raise RuntimeError("a call that runs in place has awaited something")

    async def store(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` gives, which asks the store.

        Raises:
            StoreTimeout: Nothing is left of the time, or it was used up.
            StoreLeftAlone: The store failed so often that it is given some time.
            StoreUnavailable: So many calls wait already that this one is not let in.
        """
        callers_meta.set(self._meta)  # never reset: only our own spans look at it, and each call sets its own
        if not self._runtime.engine.store.blocking:
            return work(*args, **kwargs)
        return await self._from_store(self._runtime.lane, partial(work, *args, **kwargs))

    async def begin(self, turn: Turn, window: Window, redactor: Redactor) -> tuple[Turn, BegunTurn]:
        """As `store` with the engine's `begin`; together with others that begin now, where the store takes several.

        Raises:
            StoreError: … or what `begin` raises.
        """
        callers_meta.set(self._meta)
        engine = self._runtime.engine
        if not engine.store.blocking:
            return engine.begin(turn, window, redactor)
        if engine.grouping is None or _is_asked_at_length(turn):
            return await self._from_store(self._runtime.lane, partial(engine.begin, turn, window, redactor))
        return await self._from_store(self._runtime.beginnings, (turn, window, redactor))

    async def finish(self, turn: Turn, redactor: Redactor) -> FinishedTurn:
        """The same for a turn that has ended."""
        callers_meta.set(self._meta)
        engine = self._runtime.engine
        if not engine.store.blocking:
            return engine.finish(turn, redactor)
        if engine.grouping is None or _is_answered_at_length(turn):
            return await self._from_store(self._runtime.lane, partial(engine.finish, turn, redactor))
        return await self._from_store(self._runtime.endings, (turn, redactor))

    async def _from_store(self, lane: "_Lane[G, T]", given: G) -> T:
        started = time.monotonic()
        try:
            with self._runtime.breaker.watching(), _in_words(_Waits.STORE):
                if self._store_seconds <= 0:
                    raise TimeoutError
                return await self._taken(lane, self._store_seconds, given)
        finally:
            self._store_seconds -= time.monotonic() - started

    async def files(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` gives, which asks the file store.

        Raises:
            StoreTimeout, StoreUnavailable: As with the store.
        """
        with _in_words(_Waits.FILES):
            seconds = self._file_seconds + 1
            return await self._taken(self._runtime.file_lane, seconds, partial(work, *args, **kwargs))

    async def disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` gives, which needs the local disk alone.

        Raises:
            StoreTimeout, StoreUnavailable: As with the store.
        """
        callers_meta.set(self._meta)
        with _in_words(_Waits.DISK):
            return await self._taken(self._runtime.disk_lane, _DISK_SECONDS, partial(work, *args, **kwargs))

    async def _taken(self, lane: "_Lane[G, T]", seconds: float, given: G) -> T:
        if self.are_in_place:
            return lane.call(given, budget=seconds)
        self.have_waited = True
        return await lane.call_async(given, budget=seconds)


def _is_asked_at_length(turn: Turn) -> bool:
    return len(turn.prompt) > _LONG or is_larger(turn.arguments, _LARGE)


def _is_answered_at_length(turn: Turn) -> bool:
    answer = turn.answer
    if answer is not None and (len(answer.text) > _LONG or is_larger(answer.result, _LARGE)):
        return True
    return not turn.stored_form and _is_asked_at_length(turn)  # It is still to be made fit to be stored.


class _Lane(Protocol[G_contra, T_co]):
    """`Lane`, which is given functions, or a `GroupedLane`."""

    def call(self, given: G_contra, /, *, budget: float) -> T_co: ...

    def call_async(self, given: G_contra, /, *, budget: float) -> Coroutine[Any, Any, T_co]: ...


class _in_words:  # noqa: N801 - read as a word in a `with`
    """
    Raises:
        StoreTimeout: What was waited for took too long.
        StoreUnavailable: It was not let in.
    """

    __slots__ = ("_waits",)

    def __init__(self, waits: _Waits) -> None:
        self._waits = waits

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, TimeoutError) and not isinstance(error, StoreTimeout):  # which has better words
            raise StoreTimeout(
                f"The {self._waits.value} did not answer within the time it has in one call.",
                remedy=f"{_REMEDIES[self._waits]}.",
            ) from error
        if isinstance(error, LaneFull):
            raise StoreUnavailable(
                f"All threads wait for the {self._waits.value}, which does not answer.",
                remedy=f"{_REMEDIES[self._waits]}.",
            ) from error
