"""What an operator does with what is kept, beside reading it turn by turn: the second part of every store."""

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from perdure.middleware.persistence.turn import ConversationSummary, Outcome
from perdure.quick_values import frozen

if TYPE_CHECKING:  # Most servers are never searched.
    from perdure.middleware.persistence.excerpts import Excerpt
    from perdure.middleware.persistence.question import Question

__all__ = ["FileName", "Hit", "HitPosition", "Removed", "Statistics", "Upkeep"]

HitPosition = tuple[datetime, str, int]
"""When a message was written, its turn's id, and its part: 0 the prompt, 1 the answer."""


@frozen(kw_only=True)
class Hit:
    """A message that answers a question."""

    principal: str
    continuation_id: str
    turn_id: str
    place: int
    part: int
    """0: the prompt; 1: the answer."""
    tool: str
    outcome: Outcome
    created_at: datetime
    excerpt: "Excerpt"

    @property
    def position(self) -> HitPosition:
        return self.created_at, self.turn_id, self.part


@frozen()
class FileName:
    """Where the bytes of a file are."""

    bucket: str
    key: str
    shared: bool = False
    """Whether the same content is still needed, under another name."""


@frozen(kw_only=True)
class Removed:
    """What is gone, or would be."""

    conversations: int = 0
    turns: int = 0
    files: tuple[FileName, ...] = ()
    """Those that no turn names any more: their bytes may go."""


@frozen(kw_only=True)
class Statistics:
    """Of what can be read now; `expired` waits to be purged."""

    users: int = 0
    conversations: int = 0
    turns: int = 0
    outcomes: dict[str, int]
    """How many turns ended how. Those without an answer are `running` or `interrupted`."""
    files: int = 0
    """Contents: one that was given out twice counts once."""
    file_bytes: int = 0
    expired: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


class Upkeep(Protocol):
    """Every method raises `StoreUnavailable` when it cannot say or do it; none does half of it."""

    def search(self, question: "Question", *, before: HitPosition | None = None, limit: int = 20) -> list[Hit]:
        """Messages that answer `question`, newest first; `before` is the position of the last one already seen."""
        ...

    def fork(
        self, principal: str, continuation_id: str, place: int, new_id: str, *, minted: bool = False
    ) -> ConversationSummary:
        """Make a conversation `new_id` that has the turns of another up to `place`, and goes on by itself.

        No turn is copied, and neither is lost to the fork when the other conversation is deleted or expires. It ends
        when the other one does, until a turn moves its end.

        Raises:
            ForkRefused: There is no such conversation or no turn at that place, or the new id is taken.
        """
        ...

    def delete(self, principal: str, continuation_id: str) -> Removed:
        """Delete one conversation for good; nothing is removed where there is none."""
        ...

    def purge(self, *, limit: int = 100, dry_run: bool = False) -> Removed:
        """Delete conversations that have expired, at most `limit`, those first that expired first."""
        ...

    def forget(self, principal: str, *, limit: int = 100) -> Removed:
        """Delete what `principal` has, expired or not, at most `limit` conversations."""
        ...

    def statistics(self, principal: str | None = None) -> Statistics:
        """Of one principal's, or of everybody's."""
        ...
