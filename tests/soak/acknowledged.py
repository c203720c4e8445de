"""What callers were told is kept, written down at once and held against what the database has in the end."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from soak.evidence import all_turns, answer_to

from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.turn import Outcome, Turn

__all__ = ["Ledger", "Told", "counted", "told", "violations"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """One call that came back, and what its `_meta` said."""

    writer: str
    """Whose calls come one after the other: a thread of a process, or a client."""
    number: int
    """Of the writer's calls."""
    conversation: str
    prompt: str
    persisted: bool
    deferred: bool
    fault: str


def told(writer: str, number: int, prompt: str, meta: Json) -> Told:
    return Told(
        writer=writer,
        number=number,
        conversation=meta["perdure/continuation-id"],
        prompt=prompt,
        persisted=meta["perdure/persisted"],
        deferred=meta.get("perdure/deferred", False),
        fault=meta.get("perdure/fault", ""),
    )


class Ledger:
    """A file of whole lines, to which many threads and processes append. What a killed process wrote stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, told: Told) -> None:
        line = (json.dumps(astuple(told)) + "\n").encode()
        assert os.write(self._descriptor, line) == len(line)

    def read(self) -> list[Told]:
        return [Told(*json.loads(line)) for line in self._path.read_text().splitlines()]

    def close(self) -> None:
        os.close(self._descriptor)


def counted(lines: Iterable[Told]) -> Counter[str]:
    """The figures of a ledger."""
    figures: Counter[str] = Counter()
    for line in lines:
        figures["acknowledged" if line.persisted else "not acknowledged"] += 1
        figures["deferred"] += line.deferred
    return figures


def violations(store: Store, principal: str, lines: Iterable[Told]) -> Iterator[str]:
    """Whatever was acknowledged and is missing, twice there, without its answer, or not in its writer's order; and any
    conversation whose places have a gap."""
    acknowledged = [line for line in lines if line.persisted]
    by_conversation: dict[str, list[Told]] = defaultdict(list)
    for line in acknowledged:
        by_conversation[line.conversation].append(line)
    for name, of_it in by_conversation.items():
        kept: dict[str, Turn] = {}
        for place, turn in enumerate(all_turns(store, name, principal), start=1):
            if turn.place != place:
                yield f"{name}: place {turn.place} where {place} should be"
            if turn.prompt in kept:
                yield f"{name}: {turn.prompt!r} is there twice, in {kept[turn.prompt].place} and {turn.place}"
            if turn.answer is not None and turn.answer.text != answer_to(turn.prompt):
                yield f"{name}: {turn.prompt!r} has the answer {turn.answer.text!r}"
            kept[turn.prompt] = turn
        last: dict[str, Turn] = {}
        for line in sorted(of_it, key=lambda line: (line.writer, line.number)):
            turn_of_it = kept.get(line.prompt)
            if turn_of_it is None:
                yield f"{name}: {line.prompt!r} was acknowledged and is not there"
                continue
            if turn_of_it.outcome is not Outcome.ANSWERED:
                yield f"{name}: {line.prompt!r} was acknowledged and is {turn_of_it.outcome}"
            before = last.get(line.writer)
            if before is not None and (turn_of_it.place or 0) <= (before.place or 0):
                places = f"is in {turn_of_it.place}, its writer's {before.prompt!r} in {before.place}"
                yield f"{name}: {line.prompt!r} {places}"
            last[line.writer] = turn_of_it
