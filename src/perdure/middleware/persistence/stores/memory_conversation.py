"""A conversation that is kept in memory, and its forks."""

import bisect
from datetime import datetime

from perdure.middleware.persistence.turn import ConversationSummary, Outcome, Turn, Window

__all__ = ["MemoryConversation"]


class MemoryConversation:
    expires_at: datetime | None = None
    set_aside = False
    """It has expired, and another has its name by now."""
    shared = 0
    """How many of the turns are those of what it was forked from."""
    parent: "MemoryConversation | None" = None
    forks: "tuple[MemoryConversation, ...]" = ()

    # What stands above is the same in nearly every conversation: only what is not is set in one.

    def __init__(self, principal: str, continuation_id: str, now: datetime, minted: bool) -> None:
        self.principal = principal
        self.continuation_id = continuation_id
        self.minted = minted
        self.created_at = self.updated_at = now
        self.turns: list[Turn] = []
        self.answered: list[int] = []
        """Places of the answered turns, sorted."""
        self.versions: dict[str, tuple[int, str]] = {}
        """The newest version and its hash, by logical name."""

    def share(self, source: "MemoryConversation", place: int) -> None:
        """Have the turns of `source` up to `place`: as they are now, and as they end."""
        self.turns = [turn.changed(continuation_id=self.continuation_id) for turn in source.turns[:place]]
        self.answered = [answered for answered in source.answered if answered <= place]
        self.shared, self.parent, self.expires_at = place, source, source.expires_at
        source.forks = (*source.forks, self)

    def settle(self, place: int, turn: Turn) -> None:
        is_own = turn.continuation_id == self.continuation_id
        self.turns[place - 1] = turn if is_own else turn.changed(continuation_id=self.continuation_id)
        if turn.outcome is Outcome.ANSWERED:
            bisect.insort(self.answered, place)
        for fork in self.forks:
            if place <= fork.shared:
                fork.settle(place, turn)

    def own_turns(self) -> list[Turn]:
        return self.turns[self.shared :]

    def needed(self) -> int:
        """Up to which place its forks need its turns."""
        return max((fork.shared for fork in self.forks), default=0)

    def name_for(self, turn: Turn) -> str:
        """Under which whoever writes `turn` knows this conversation."""
        return turn.continuation_id if self.set_aside else self.continuation_id

    def window(self, place: int, window: Window) -> tuple[Turn, ...]:
        kept: list[Turn] = []
        spent = 0
        before = bisect.bisect_left(self.answered, place)
        for index in range(before - 1, max(before - 1 - window.turns, -1), -1):
            turn = self.turns[self.answered[index] - 1]
            spent += turn.tokens
            if spent > window.tokens:
                break
            kept.append(turn)
        return tuple(reversed(kept))

    def summary(self) -> ConversationSummary:
        return ConversationSummary(
            principal=self.principal,
            continuation_id=self.continuation_id,
            turns=len(self.turns),
            created_at=self.created_at,
            updated_at=self.updated_at,
            minted=self.minted,
            expires_at=self.expires_at,
        )
