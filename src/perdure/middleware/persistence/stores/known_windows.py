"""The newest turns of conversations as this process last saw them, and by which versions a database can tell whether
they still stand there so.

A version is of the rows at one place: of their ids, and of the transactions that wrote them. Those of several places,
exclusive-ored, are a version of them all. The database compares: whatever is wrong or missing here makes turns travel
again, and nothing else.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from functools import reduce
from operator import xor
from typing import Generic, NamedTuple, TypeVar

from perdure.middleware.persistence.serialization import Prompt
from perdure.middleware.persistence.stores.known_turns import KnownTurn
from perdure.middleware.persistence.turn import Turn, Window

__all__ = ["BegunHere", "Claim", "KnownWindow", "KnownWindows", "Told"]

C = TypeVar("C", bound=Hashable)

_MOST_CHARACTERS = 8_000_000
"""Of what is kept in memory: some 150 conversations of 20 turns of 2 KB."""

_MOST_BEGUN = 1000
"""Turns that have not ended. More than that do not run at once; those that never end must not fill the memory."""

_LONGEST_PROMPT = 100_000
"""Characters, of one that is kept in mind, with its arguments."""

_MOST_PLACES = 200
"""Whose versions are compared. Between answered turns may stand others, of which a history has nothing."""


class Claim(NamedTuple):
    """What stands at all places from `first` on has this version, all places together."""

    first: int
    version: int


class BegunHere(NamedTuple):
    """A turn that has not ended."""

    turn: Turn
    prompt: Prompt | None
    """As it will be read again, a copy; None where only reading tells."""
    characters: int
    place: int
    version: int


class KnownWindow:
    """`turns`: the newest answered ones within the budget, by place, the oldest first."""

    __slots__ = (
        "_first",
        "_last",
        "_shown",
        "_tokens",
        "_turns",
        "_version",
        "_versions",
        "_window",
        "_written",
        "characters",
    )

    def __init__(
        self, window: Window, turns: dict[int, KnownTurn], first: int | None = None, versions: Mapping[int, int] = {}
    ) -> None:
        """`versions`: of what stands at each place from `first` on, unanswered turns included. A turn that stands
        before `first` is not in the window, whatever becomes of it.
        """
        self._window = window.turns, window.tokens
        self._turns = turns
        self._first = first
        self._versions = dict(versions)
        # What each beginning asks for is kept as it will be asked for: to go over all turns takes longer than the rest.
        self._last = max(versions, default=0)
        self._version = reduce(xor, versions.values(), 0)
        self._shown = {place: known.turn for place, known in turns.items()}
        self._written = {place: str(known.made_of) for place, known in turns.items() if isinstance(known.made_of, int)}
        self._tokens = sum(known.turn.tokens for known in turns.values())
        self.characters = sum(known.characters for known in turns.values())

    def turns(self) -> dict[int, KnownTurn]:
        return dict(self._turns)

    def told(self, window: Window, generation: int) -> "Told":
        return Told(
            dict(self._turns),
            list(self._shown.values()),
            f"{{{','.join(self._written.values())}}}",
            self.claim(window),
            generation,
        )

    def claim(self, window: Window) -> Claim | None:
        """None: it is not known what a history within `window` would be."""
        places, first = len(self._versions), self._first
        if not places or first is None or (window.turns, window.tokens) != self._window:
            return None
        if places != self._last - first + 1 or places > _MOST_PLACES:
            return None
        return Claim(first, self._version)

    def begun(self, place: int, version: int) -> None:
        if self._first is not None and place >= self._first:
            self._version ^= self._versions.get(place, 0) ^ version
            self._versions[place] = version
            self._last = max(self._last, place)

    def ended(self, place: int, version: int, known: KnownTurn | None) -> None:
        """`version`: of its answer alone. `known`: if the turn now is one of a history."""
        if place not in self._versions:
            return
        self._versions[place] ^= version
        self._version ^= version
        if known is not None:
            self._add(place, known)
            self._let_go()

    def lose(self, place: int) -> None:
        """It is not known any more what stands there."""
        self._version ^= self._versions.pop(place, 0)

    def _add(self, place: int, known: KnownTurn) -> None:
        is_newest = not self._turns or place > next(reversed(self._turns))
        self._turns[place], self._shown[place] = known, known.turn
        if isinstance(known.made_of, int):
            self._written[place] = str(known.made_of)
        if not is_newest:  # it was answered late
            self._turns = dict(sorted(self._turns.items()))
            self._shown = dict(sorted(self._shown.items()))
        self._tokens += known.turn.tokens
        self.characters += known.characters

    def _let_go(self) -> None:
        """Of the oldest turns, for which the budget is too small now; and of what cannot be in the window any more."""
        turns, tokens = self._window
        first = None
        while self._turns and (len(self._turns) > turns or self._tokens > tokens):
            is_one_too_many = len(self._turns) > turns
            oldest = next(iter(self._turns))
            gone = self._turns.pop(oldest)
            del self._shown[oldest]
            self._written.pop(oldest, None)
            self._tokens -= gone.turn.tokens
            self.characters -= gone.characters
            # One that is too dear lets nothing pass that stands before it, but what stands after it may come in.
            first = next(iter(self._turns), oldest) if is_one_too_many else oldest
        if first is not None:
            for place in range(first if self._first is None else self._first, first):
                self.lose(place)
            self._first = first


class Told(NamedTuple):
    turns: dict[int, KnownTurn]
    """By place, the oldest first."""
    shown: list[Turn]
    """The same, as a history has them."""
    versions: str
    """Theirs, as far as they have any: an array as Postgres writes it, which it reads in less time than one of JSON."""
    claim: Claim | None
    generation: int


class KnownWindows(Generic[C]):
    """Of the conversations that were used lately. Safe to use from many threads."""

    def __init__(self, most_characters: int = _MOST_CHARACTERS) -> None:
        self._most_characters = most_characters
        self._lock = threading.Lock()
        self._windows: OrderedDict[C, KnownWindow] = OrderedDict()
        self._begun: dict[str, BegunHere] = {}
        self._characters = 0
        self._generation = 0
        """Another one since all was forgotten."""

    def of(self, conversation: C, window: Window) -> Told:
        with self._lock:
            found = self._windows.get(conversation)
            if found is None:
                return Told({}, [], "{}", None, self._generation)
            self._windows.move_to_end(conversation)
            return found.told(window, self._generation)

    def keep(self, conversation: C, window: KnownWindow, generation: int) -> None:
        """In place of what was known of the conversation. `generation`: as it was before `window` was read."""
        with self._lock:
            if generation != self._generation:
                return
            before = self._windows.pop(conversation, None)
            self._characters -= before.characters if before is not None else 0
            self._windows[conversation] = window
            self._count(conversation, window, 0)

    def begun(self, conversation: C, begun: BegunHere, generation: int) -> None:
        with self._lock:
            if generation != self._generation:
                return
            if begun.prompt is not None and begun.characters <= _LONGEST_PROMPT:
                if len(self._begun) >= _MOST_BEGUN:
                    del self._begun[next(iter(self._begun))]
                self._begun[begun.turn.id] = begun
            if (window := self._windows.get(conversation)) is not None:
                window.begun(begun.place, begun.version)

    def begun_here(self, turn_id: str) -> BegunHere | None:
        """What was noted of the turn when it began. It is not any more."""
        return self._begun.pop(turn_id, None)

    def ended(
        self, conversation: C, place: int, version: int | None, known: KnownTurn | None, *, is_in_history: bool
    ) -> None:
        """`version`: of its answer alone; None if that was not told."""
        with self._lock:
            if (window := self._windows.get(conversation)) is None:
                return
            before = window.characters
            if version is None or (is_in_history and known is None):
                window.lose(place)
            else:
                window.ended(place, version, known)
            self._count(conversation, window, before)

    def forget_all(self) -> None:
        with self._lock:
            self._windows.clear()
            self._begun.clear()
            self._characters = 0
            self._generation += 1

    def _count(self, conversation: C, window: KnownWindow, before: int) -> None:
        """`before`: its characters, as they were counted."""
        self._characters += window.characters - before
        if window.characters > self._most_characters // 4:  # One conversation is not worth all the others.
            self._characters -= self._windows.pop(conversation).characters
        while self._characters > self._most_characters:
            self._characters -= self._windows.popitem(last=False)[1].characters
