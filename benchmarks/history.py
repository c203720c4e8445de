"""A durable turn in a conversation that is already long: its cost must not grow with it."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from benchmarks.embedded import WINDOW, Embedded, Seed, embedded, name
from benchmarks.harness import WARM_UP, Candidate, Comparison, Goal, Result, interleaved, time_each
from benchmarks.raw_sqlite import RawTurns

__all__ = ["run"]

_SIZES = (0, 100, 1_000, 10_000, 100_000)
"""Messages that are there already; two make a turn."""

_STAYS_SMALL = 1_000
"""Up to this size every round has a conversation of its own: the turns of a few rounds would make it another size."""

_TURNS = 20
"""In one round, for each candidate."""

_FLOOR = "floor: a raw two-row transaction"

_GOALS = {100: Goal(quantity="ratio", limit=2.0), 100_000: Goal(quantity="to_reference", limit=1.1)}


def run(rounds: int, folder: Path) -> list[Result]:
    with ExitStack() as stack:
        raw = stack.enter_context(
            closing(RawTurns(folder / "raw.db", conversations=1, messages=100, window=WINDOW.turns * 2))
        )
        databases = {size: stack.enter_context(embedded(folder / f"{size}.db", _seed(size, rounds))) for size in _SIZES}
        comparison = Comparison(
            name="history",
            title="A durable SQLite turn, 40 messages of history read, in a conversation that has so many",
            unit="ms",
            reference=_title(100),
            candidates=[
                Candidate(name=_FLOOR, measure=lambda: time_each(lambda: raw.turn(0), _TURNS) / 1000),
                *(
                    Candidate(name=_title(size), measure=_measure(database), floor=_FLOOR, goal=_GOALS.get(size))
                    for size, database in databases.items()
                ),
            ],
        )
        result = interleaved(comparison, rounds)
        turns = sum(database.verified() for database in databases.values())
        notes = [
            f"Verified: all {turns:,} acknowledged turns are in the files, in their places.",
            "A turn is begin and finish. The floor reads 40 messages of 100 and commits two with synchronous=FULL.",
        ]
        return [replace(result, notes=notes)]


def _title(size: int) -> str:
    return f"{size:,} messages" if size else "none: a new one each turn"


def _seed(size: int, rounds: int) -> Seed:
    return Seed(conversations=rounds + WARM_UP if size <= _STAYS_SMALL else 1, messages=size)


def _measure(database: Embedded) -> Callable[[], float]:
    """Does a round's turns, in milliseconds for one."""
    numbers = itertools.count()

    def measure() -> float:
        if database.seed.messages == 0:
            return time_each(lambda: database.turn(f"new-{next(numbers)}"), _TURNS) / 1000
        conversation = name(next(numbers) % database.seed.conversations)
        return time_each(lambda: database.turn(conversation), _TURNS) / 1000

    return measure
