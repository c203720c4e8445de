"""Turns that many histories share: one is a part of them, which costs the same however many turns it has.

To give each history a list of its own is to touch every turn in it, and so is to look for something in all of them. In
a process with many conversations each touch is a wait for memory: 20 turns took a tenth of what a turn costs.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias, overload

from perdure.middleware.persistence.turn import Turn

__all__ = ["GrowingTurns", "PartOfTurns", "Predicate"]

Predicate: TypeAlias = Callable[[Turn], bool]
"""A function that says the same of a turn whenever it is asked. Kept as long as the turns are."""


class GrowingTurns:
    """Answered turns, oldest first. None ever changes, and a new one comes at the end: so a part stays what it is."""

    __slots__ = ("_passed", "_turns")

    def __init__(self, turns: Sequence[Turn] = ()) -> None:
        self._turns = list(turns)
        self._passed: dict[Predicate, tuple[int, int]] = {}
        """Of which turns, from one to before another, a predicate was found true."""

    def __len__(self) -> int:
        return len(self._turns)

    def append(self, turn: Turn) -> None:
        self._turns.append(turn)

    def newest(self, count: int) -> "PartOfTurns":
        last = len(self._turns)
        return PartOfTurns(self, last - count, last)

    def without_oldest(self, count: int) -> "GrowingTurns":
        """Others, which have the rest, and know of it what these know."""
        rest = GrowingTurns(self._turns[count:])
        passed = self._passed.copy()  # which another thread may add to meanwhile
        rest._passed = {predicate: (max(first - count, 0), last - count) for predicate, (first, last) in passed.items()}
        return rest

    def _all_pass(self, predicate: Predicate, first: int, last: int) -> bool:
        start, end = self._passed.get(predicate, (first, first))
        if not start <= first <= end:
            start = end = first
        if end < last:
            if not all(map(predicate, self._turns[end:last])):
                return False
            self._passed[predicate] = start, last
        return True


class PartOfTurns(Sequence[Turn]):
    """Shared: nobody may change the JSON in them."""

    __slots__ = ("_first", "_last", "_whole")

    def __init__(self, whole: GrowingTurns, first: int, last: int) -> None:
        self._whole = whole
        self._first = first
        self._last = last

    def all_pass(self, predicate: Predicate) -> bool:
        """Whether `predicate` is true of each. No turn is asked about twice, whichever parts it is in."""
        return self._whole._all_pass(predicate, self._first, self._last)

    @overload
    def __getitem__(self, index: int) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Turn]: ...
    def __getitem__(self, index: int | slice) -> Turn | Sequence[Turn]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        place = index + (self._last if index < 0 else self._first)
        if not self._first <= place < self._last:
            raise IndexError(index)
        return self._whole._turns[place]

    def __iter__(self) -> Iterator[Turn]:
        return islice(self._whole._turns, self._first, self._last)

    def __len__(self) -> int:
        return self._last - self._first
