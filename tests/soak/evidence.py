"""What writers were told, held against what the database has."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.turn import Outcome, Turn

__all__ = ["PRINCIPAL", "Evidence", "all_turns", "answer_to"]

PRINCIPAL = "alice"
PAGE = 1000


def answer_to(prompt: str) -> str:
    return f"answer to {prompt}"


@dataclass
class Evidence:
    """The places that were acknowledged, by conversation and prompt. Every prompt belongs to one turn only."""

    begun: dict[tuple[str, str], int] = field(default_factory=dict)
    finished: dict[tuple[str, str], int] = field(default_factory=dict)

    def violations(self, store: Store, conversations: Iterable[str]) -> Iterator[str]:
        """Whatever is missing, twice there, without its answer, or not in the place that was told."""
        kept: dict[tuple[str, str], Turn] = {}
        for name in conversations:
            for place, turn in enumerate(all_turns(store, name), start=1):
                if turn.place != place:
                    yield f"{name}: place {turn.place} where {place} should be"
                if (name, turn.prompt) in kept:
                    yield f"{name}: {turn.prompt!r} is there twice, in {kept[name, turn.prompt].place} and {turn.place}"
                kept[name, turn.prompt] = turn
                if turn.answer is not None and turn.answer.text != answer_to(turn.prompt):
                    yield f"{name}: {turn.prompt!r} has the answer {turn.answer.text!r}"
        for what in (self.begun, self.finished):
            for key, told in what.items():
                if key not in kept:
                    yield f"{key} was acknowledged in place {told} and is not there"
                elif kept[key].place != told:
                    yield f"{key} was acknowledged in place {told} and is in {kept[key].place}"
        for key in self.finished:
            if key in kept and kept[key].outcome is not Outcome.ANSWERED:
                yield f"{key} was finished and is {kept[key].outcome}"


def all_turns(store: Store, name: str, principal: str = PRINCIPAL) -> Iterator[Turn]:
    after = 0
    while page := store.turns(principal, name, after=after, limit=PAGE):
        yield from page
        after = page[-1].place or 0
