"""Which conversations share their first turns with one that was written before: those forks are exported as such."""

from dataclasses import dataclass

from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.turn import ConversationSummary

__all__ = ["Shared", "Sharing"]


@dataclass(frozen=True, slots=True)
class Shared:
    continuation_id: str
    """Of the conversation that was written before, of the same user."""
    place: int
    """The last that both have."""


class Sharing:
    """Remembers a turn's id for each conversation: their length does not matter."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_first_turn: dict[tuple[str, str], list[ConversationSummary]] = {}

    def of(self, conversation: ConversationSummary) -> Shared | None:
        """What it shares with one of those that this was asked for before; most, if there are several."""
        first = self._turn_id(conversation, 1)
        if first is None:
            return None
        before = self._by_first_turn.setdefault((conversation.principal, first), [])
        shared = [Shared(other.continuation_id, self._common(conversation, other)) for other in before]
        before.append(conversation)
        return max(shared, key=lambda found: found.place, default=None)

    def _common(self, one: ConversationSummary, other: ConversationSummary) -> int:
        """The last place at which both have the same turn: up to there they have all, and after it none."""
        low, high = 1, min(one.turns, other.turns)
        while low < high:
            middle = (low + high + 1) // 2
            if self._turn_id(one, middle) == self._turn_id(other, middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _turn_id(self, conversation: ConversationSummary, place: int) -> str | None:
        found = self._store.turns(conversation.principal, conversation.continuation_id, after=place - 1, limit=1)
        return found[0].id if found else None
