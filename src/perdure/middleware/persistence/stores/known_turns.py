"""Answered turns that this process has read lately: none of ours ever changes, so they need not be read again."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

from perdure.middleware.persistence.turn import Turn

__all__ = ["OF_A_TURN", "KnownTurn", "KnownTurns"]

C = TypeVar("C", bound=Hashable)

_MOST_CHARACTERS = 8_000_000
"""Of what is kept in memory: some 150 conversations of 20 turns of 2 KB."""


OF_A_TURN = 1000
"""Characters: counted for a turn beside its texts. The smallest takes 1.4 KB."""


class KnownTurn(NamedTuple):
    turn: Turn
    """Shared: nobody may change the JSON in it."""
    characters: int
    """Of its row, and for what it is besides."""
    made_of: object = None
    """The version of its row, or the row itself, where that is still to be compared."""


class KnownTurns(Generic[C]):
    """The newest window of each conversation that was read lately. Safe to use from many threads."""

    def __init__(self, most_characters: int = _MOST_CHARACTERS) -> None:
        self._most_characters = most_characters
        self._lock = threading.Lock()
        self._windows: OrderedDict[C, tuple[Mapping[int, KnownTurn], int]] = OrderedDict()
        self._characters = 0
        self.generation = 0
        """Another one since all was forgotten."""

    def of(self, conversation: C) -> Mapping[int, KnownTurn]:
        """By place."""
        with self._lock:
            found = self._windows.get(conversation)
            if found is None:
                return {}
            self._windows.move_to_end(conversation)
            return found[0]

    def keep(self, conversation: C, window: Mapping[int, KnownTurn], generation: int) -> None:
        """In place of what was known of the conversation. `generation`: as it was before `window` was read."""
        characters = sum(known.characters for known in window.values())
        with self._lock:
            if generation != self.generation:
                return
            self._forget(conversation)
            if characters > self._most_characters // 4:
                return  # One conversation is not worth all the others.
            self._windows[conversation] = window, characters
            self._characters += characters
            while self._characters > self._most_characters:
                self._forget(next(iter(self._windows)))

    def forget_all(self) -> None:
        with self._lock:
            self._windows.clear()
            self._characters = 0
            self.generation += 1

    def _forget(self, conversation: C) -> None:
        found = self._windows.pop(conversation, None)
        if found is not None:
            self._characters -= found[1]
