"""Turns that several may hold at once: whoever looks at one gets a copy, since the JSON in it can be changed."""

from collections.abc import Iterator, Sequence
from typing import overload

from perdure.middleware.persistence.turn import Answer, Json, Turn

__all__ = ["CopiedTurns", "shared"]


class CopiedTurns(Sequence[Turn]):
    """Copies each of `turns` when it is first looked at; most histories are never looked at as a whole."""

    __slots__ = ("_copies", "_turns")

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._copies: list[Turn | None] = [None] * len(turns)

    @overload
    def __getitem__(self, index: int) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Turn]: ...
    def __getitem__(self, index: int | slice) -> Turn | Sequence[Turn]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        copy = self._copies[index]
        if copy is None:
            copy = self._copies[index] = _copied(self._turns[index])
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


def shared(turns: Sequence[Turn]) -> Sequence[Turn]:
    """`turns` without a copy of any, for whoever only reads their texts and hands none of them on."""
    return turns._turns if isinstance(turns, CopiedTurns) else turns


def _copied(turn: Turn) -> Turn:
    answer = turn.answer
    if answer is not None:
        answer = Answer(text=answer.text, result=_copied_json(answer.result), error=_copied_json(answer.error))
    return turn.changed(arguments=_copied_json(turn.arguments), metadata=_copied_json(turn.metadata), answer=answer)


def _copied_json(value: Json) -> Json:
    # Not `match`, and not `copy.deepcopy`: four and ten times slower.
    kind = type(value)
    if kind is dict:
        return {key: _copied_json(item) for key, item in value.items()}
    if kind is list:
        return [_copied_json(item) for item in value]
    return value
