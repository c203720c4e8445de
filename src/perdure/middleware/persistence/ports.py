"""What the engine needs from the outside: a store, a clock. Synchronous, small, and all of it."""

from datetime import UTC, datetime
from typing import Protocol

from perdure.middleware.persistence.turn import BegunTurn, ConversationSummary, FinishedTurn, Turn, Window

__all__ = ["Clock", "Store", "SystemClock"]


class Store(Protocol):
    """Keeps turns. Safe to call from many threads at once.

    Every method raises `StoreUnavailable` when it cannot say what is kept; none returns an empty answer instead.
    `perdure.testing.StoreContract` is the whole definition, in tests that any implementation can inherit.
    """

    blocking: bool
    """Whether a call may wait for I/O, and so must not run on an event loop."""

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        """Give `turn` its place, keep it, and read the history before it.

        Beginning a turn again changes nothing and answers the same place.

        Raises:
            TurnConflict: The id belongs to another principal, or to a turn with another digest.
        """
        ...

    def finish(self, turn: Turn) -> FinishedTurn:
        """Keep how `turn` ended; durable on return. The first ending wins.

        `turn` is whole, so a turn that was never begun here is begun and finished at once.

        Raises:
            TurnConflict: The id belongs to another principal, or to a turn with another digest.
        """
        ...

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        """The turns of one conversation by place, from the one after place `after`; empty if there is none."""
        ...

    def conversations(
        self,
        principal: str | None = None,
        continuation_id: str | None = None,
        *,
        before: tuple[datetime, str, str] | None = None,
        limit: int = 100,
    ) -> list[ConversationSummary]:
        """Newest first. `principal=None` means everybody's: for an operator, never for a caller of a tool.

        `before` is the (updated_at, principal, continuation_id) of the last line already seen.
        """
        ...

    def close(self) -> None: ...


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, with its zone (UTC)."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)
