"""Measures candidates side by side, so that a busy machine slows them all alike and their ratios hold.

A candidate is a function that does one round and returns one figure; what stands behind it (this process, threads, a
child process in an environment of its own) is its own affair. Rounds are interleaved, in an order that rotates and
turns around. A ratio is the median of the rounds' ratios, not the ratio of two medians.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "ALARM",
    "WARM_UP",
    "Candidate",
    "Comparison",
    "Goal",
    "Line",
    "Result",
    "Series",
    "interleaved",
    "time_each",
]

WARM_UP = 1
"""Rounds that are done and not counted."""

ALARM = "WRONG:"
"""How a note begins that says something is not as it must be."""

Quantity: TypeAlias = Literal["figure", "added", "ratio", "to_reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What one of a line's quantities shall be: at most `limit`; at least, where more is better."""

    quantity: Quantity
    limit: float

    def is_met(self, line: "Line", *, more_is_better: bool) -> bool:
        found = line.quantity(self.quantity)
        return found is not None and (found >= self.limit if more_is_better else found <= self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    name: str
    measure: Callable[[], float]
    """Does one round, and returns its figure in the comparison's unit."""
    floor: str | None = None
    """The candidate it stands beside: what the same work costs at least. None for a floor."""
    goal: Goal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    name: str
    """As in `--only`; several comparisons may share one."""
    title: str
    unit: str
    """What is measured, "µs" or "turns/s"; differences and goals are in it too."""
    candidates: Sequence[Candidate]
    more_is_better: bool = False
    """The unit is a rate."""
    reference: str | None = None
    """A candidate to which all are held besides their floors."""
    plot: "Series | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What of a comparison is drawn: medians, as lines over x, or as bars where each has but one."""

    file: str
    """Its name, without an ending."""
    title: str
    lines: Mapping[str, Sequence[tuple[float, str]]]
    """By their legend: x, and the candidate whose median stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What was found for one candidate. One figure for each round; rounds correspond."""

    name: str
    figures: tuple[float, ...]
    floor: str | None = None
    floor_figures: tuple[float, ...] | None = None
    reference_figures: tuple[float, ...] | None = None
    goal: Goal | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.figures)

    @property
    def added(self) -> float | None:
        """To the floor, in the comparison's unit."""
        if self.floor_figures is None:
            return None
        return statistics.median(a - b for a, b in zip(self.figures, self.floor_figures, strict=True))

    @property
    def ratio(self) -> float | None:
        return statistics.median(ratios) if (ratios := self._ratios(self.floor_figures)) else None

    @property
    def ratio_quartiles(self) -> tuple[float, float] | None:
        """Between which half of the rounds' ratios lie; None with less than two rounds."""
        ratios = self._ratios(self.floor_figures)
        if len(ratios) < 2:
            return None
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    @property
    def to_reference(self) -> float | None:
        return statistics.median(ratios) if (ratios := self._ratios(self.reference_figures)) else None

    def quantity(self, which: Quantity) -> float | None:
        match which:
            case "figure":
                return self.median
            case "added":
                return self.added
            case "ratio":
                return self.ratio
            case "to_reference":
                return self.to_reference

    def _ratios(self, others: tuple[float, ...] | None) -> list[float]:
        return [figure / other for figure, other in zip(self.figures, others or (), strict=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    comparison: Comparison
    lines: list[Line]
    notes: list[str] = field(default_factory=list)
    """What was verified afterwards, and what a reader must know."""


def interleaved(comparison: Comparison, rounds: int) -> Result:
    candidates = list(comparison.candidates)
    figures: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for number in range(-WARM_UP, rounds):
        for candidate in _order(candidates, number):
            gc.collect()  # Nobody pays for another's garbage.
            figure = candidate.measure()
            if number >= 0:
                figures[candidate.name].append(figure)
        if number < 0:
            gc.freeze()  # What is there by now stays: looking through it each time would take longer than the work.
    gc.unfreeze()
    found = {name: tuple(one_a_round) for name, one_a_round in figures.items()}
    reference = found[comparison.reference] if comparison.reference else None
    return Result(
        comparison=comparison,
        lines=[
            Line(
                name=candidate.name,
                figures=found[candidate.name],
                floor=candidate.floor,
                floor_figures=found[candidate.floor] if candidate.floor else None,
                # A floor is no case of what is compared.
                reference_figures=reference if candidate.floor else None,
                goal=candidate.goal,
            )
            for candidate in candidates
        ],
    )


def time_each(work: Callable[[], object], times: int) -> float:
    """The median time of one `work`, in microseconds."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e6


def _order(candidates: list[Candidate], number: int) -> list[Candidate]:
    """Rotated by one each round, and turned around every other, so that no one always follows the same other."""
    start = number % len(candidates)
    order = candidates[start:] + candidates[:start]
    return order[::-1] if number % 2 else order
