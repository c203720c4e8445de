"""Turns that several may hold at once: whoever looks at one gets a copy, since the JSON in it can be changed."""

from collections.abc import Iterator, Sequence
from typing import overload

from perdure.middleware.persistence.growing_turns import PartOfTurns, Predicate
from perdure.middleware.persistence.text_answers import TextAnswer
from perdure.middleware.persistence.turn import Answer, Turn, copied
from perdure.quick_values import making

__all__ = ["CopiedTurns", "all_pass", "copied_answer", "own_copy", "shared"]


class CopiedTurns(Sequence[Turn]):
    """Copies each of `turns` when it is first looked at; most histories are never looked at as a whole."""

    __slots__ = ("_copies", "_turns")

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._copies: list[Turn | None] | None = None

    @overload
    def __getitem__(self, index: int) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Turn]: ...
    def __getitem__(self, index: int | slice) -> Turn | Sequence[Turn]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        copies = self._copies
        if copies is None:
            copies = self._copies = [None] * len(self._turns)
        copy = copies[index]
        if copy is None:
            copy = copies[index] = own_copy(self._turns[index])
        return copy

    def __iter__(self) -> Iterator[Turn]:
        return map(self.__getitem__, range(len(self)))

    def __len__(self) -> int:
        return len(self._turns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(turn.id for turn in self._turns))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[type["CopiedTurns"], tuple[tuple[Turn, ...]]]:
        # What is copied or pickled is what can be looked at: not what it is shared from, which has other turns, too.
        return CopiedTurns, (tuple(self),)


def shared(turns: Sequence[Turn]) -> Sequence[Turn]:
    """`turns` without a copy of any, for whoever only reads their texts and hands none of them on."""
    return turns._turns if isinstance(turns, CopiedTurns) else turns


def all_pass(predicate: Predicate, turns: Sequence[Turn]) -> bool:
    """Whether `predicate` is true of each. What histories share is not asked about twice."""
    turns = shared(turns)
    return turns.all_pass(predicate) if isinstance(turns, PartOfTurns) else all(map(predicate, turns))


def own_copy(turn: Turn) -> Turn:
    """Of which a reader may change what can be changed."""
    return turn.changed(
        arguments=copied(turn.arguments), metadata=copied(turn.metadata), answer=copied_answer(turn.answer)
    )


_answer = making(Answer)


def copied_answer(answer: Answer | None) -> Answer | None:
    if answer is None:
        return None
    if isinstance(answer, TextAnswer):
        return answer.written_out()
    error = None if answer.error is None else copied(answer.error)
    return _answer(text=answer.text, result=copied(answer.result), error=error)
