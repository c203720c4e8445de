"""What this process knows of the conversations that it writes to, so that the next turn asks the database for nothing.

All of it stands in the database just so: it is noted in the very transaction that writes or reads it, and forgotten
when that is taken back, and as soon as anybody else has written to the file, an operator by hand included.
"""

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from perdure.middleware.persistence.growing_turns import GrowingTurns
from perdure.middleware.persistence.stores.known_turns import KnownTurn
from perdure.middleware.persistence.stores.sqlite.written_rows import PromptRow
from perdure.middleware.persistence.turn import Turn, Window

__all__ = ["Intent", "KnownConversation", "KnownConversations"]

_MOST_CHARACTERS = 8_000_000
"""Of what is kept in memory: some 150 conversations of 20 turns of 2 KB."""

_OF_A_CONVERSATION = 500
"""Characters: counted for one beside its turns."""

_MOST_INTENTS = 1000
"""Of turns that have not ended. More than that do not run at once; those that never end must not fill the memory."""

_LONGEST_PROMPT = 100_000
"""Characters, of one that is kept in mind, with its arguments."""


class Intent(NamedTuple):
    """A turn that was begun here, and has not ended."""

    name: tuple[str, str]
    """Of its conversation: its principal and its id."""
    key: int
    place: int
    digest: str
    prompt: PromptRow | None
    """As it stands in the database; None if that is not sure any more, or too long to be kept in mind."""


class KnownConversation:
    """Its newest answered turns, `depth` of them or all that there are, by place."""

    __slots__ = (
        "_characters",
        "_gone",
        "_newest",
        "_places",
        "_tokens",
        "_turns",
        "characters",
        "depth",
        "expires_at",
        "key",
        "last_place",
        "minted",
        "name",
        "spent",
        "whole",
    )

    def __init__(
        self,
        name: tuple[str, str],
        key: int,
        last_place: int,
        newest: Mapping[int, int],
        *,
        depth: int,
        minted: bool = False,
        expires_at: str | None = None,
    ) -> None:
        """`name` is its principal and its id; `newest` what each turn costs, by place, oldest first, up to `depth`."""
        self.name = name
        self.key = key
        self.minted = minted
        self.expires_at = expires_at
        self.last_place = last_place
        self.depth = depth
        self.spent = sum(newest.values())
        self.whole = len(newest) < depth
        """There are no others."""
        self.characters = _OF_A_CONVERSATION
        # One of each for each turn, oldest first: a history takes the ends of two of them.
        self._places = list(newest)
        self._tokens = list(newest.values())
        self._turns: list[Turn | None] = [None] * len(newest)
        self._characters = [0] * len(newest)
        self._newest = GrowingTurns()
        """The last of `_turns`, as far as all are known; perhaps after some that have gone from there."""
        self._gone = 0
        """Their characters."""

    def takes(self, turn: Turn, now: str, window: Window) -> bool:
        """Whether it is sure that `turn` may be the next one, and which turns come before it."""
        return (
            (turn.adopt or self.minted)
            and (self.expires_at is None or self.expires_at > now)
            and (window.last_place is None or self.last_place < window.last_place)
            and (window.turns <= self.depth or self.whole)
        )

    def window(self, window: Window) -> tuple[Sequence[Turn] | None, Sequence[int], Sequence[Turn | None]]:
        """The newest answered turns within the budget, oldest first, if all are known; if not, their places, and what
        is known of them.
        """
        first = len(self._places)
        if self.spent <= window.tokens and first <= window.turns:
            first = 0
        else:
            oldest, left = max(first - window.turns, 0), window.tokens
            while first > oldest and (left := left - self._tokens[first - 1]) >= 0:
                first -= 1
        newest, wanted = self._newest, len(self._places) - first
        if wanted <= len(newest):
            return newest.newest(wanted), (), ()
        # Told of these alone, not of a count: a reader may learn some, or too much be forgotten, between the two.
        turns = self._turns[first:]
        known = [turn for turn in turns if turn is not None]
        return known if len(known) == len(turns) else None, self._places[first:], turns

    def moved_on(self, place: int, expires_at: str | None) -> None:
        """Its newest turn is at `place` now; `expires_at` if that has changed."""
        self.last_place = place
        self.expires_at = expires_at or self.expires_at

    def answered(self, place: int, tokens: int, known: KnownTurn | None) -> None:
        """A turn now has its answer, and may be among the newest."""
        at = len(self._places)
        while at and self._places[at - 1] > place:
            at -= 1
        if at == 0 and not self.whole:
            return
        turn, characters = known[:2] if known is not None else (None, 0)
        is_newest = at == len(self._places)
        self._places.insert(at, place)
        self._tokens.insert(at, tokens)
        self._turns.insert(at, turn)
        self._characters.insert(at, characters)
        self.spent += tokens
        self.characters += characters
        if len(self._places) > self.depth:
            self.whole = False
            self.spent -= self._tokens.pop(0)
            self._gone += self._characters.pop(0)
            del self._turns[0], self._places[0]
        if turn is None or not is_newest:
            self._share_anew()
            return
        self._newest.append(turn)
        gone = len(self._newest) - len(self._places)
        if gone > self.depth // 2:
            self._let_go(self._newest.without_oldest(gone))

    def learn(self, known: Mapping[int, KnownTurn]) -> None:
        """What some of its turns say, by place."""
        learned = False
        for at, place in enumerate(self._places):
            if self._turns[at] is None and place in known:
                self._turns[at], self._characters[at] = known[place][:2]
                self.characters += self._characters[at]
                learned = True
        if learned:
            self._share_anew()

    def learn_from(self, earlier: "KnownConversation") -> None:
        """What was known of its turns before."""
        turns = zip(earlier._places, earlier._turns, earlier._characters, strict=True)
        self.learn({place: KnownTurn(turn, size) for place, turn, size in turns if turn is not None})

    def forget_texts(self) -> None:
        self._turns = [None] * len(self._places)
        self._characters = [0] * len(self._places)
        self.characters = _OF_A_CONVERSATION
        self._newest, self._gone = GrowingTurns(), 0

    def _share_anew(self) -> None:
        first = len(self._turns)
        while first and self._turns[first - 1] is not None:
            first -= 1
        self._let_go(GrowingTurns([turn for turn in self._turns[first:] if turn is not None]))

    def _let_go(self, newest: GrowingTurns) -> None:
        """`newest` has none of those that have gone."""
        self._newest = newest
        self.characters -= self._gone
        self._gone = 0


class KnownConversations:
    """For the one thread that writes; `learn` for any. The conversation that was used longest ago goes first."""

    def __init__(self, most_characters: int = _MOST_CHARACTERS) -> None:
        self._most_characters = most_characters
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], KnownConversation] = OrderedDict()
        self._characters = 0
        self._intents: dict[str, Intent] = {}
        self._as_of: tuple[sqlite3.Connection | None, int] = (None, 0)

    def transaction_taken_back(self) -> None:
        # Whatever it had noted; and if what is known here was wrong, and the database refused it, that must end, too.
        self.forget_all()

    def forget_if_others_wrote(self, connection: sqlite3.Connection, cursor: sqlite3.Cursor) -> None:
        """Within a transaction. What is asked for thereafter is as it stands in the database. `cursor` is one of
        `connection`.
        """
        # https://sqlite.org/pragma.html#pragma_data_version: it stays as it is for what this connection commits.
        as_of = connection, cursor.execute("PRAGMA data_version").fetchone()[0]
        if as_of != self._as_of:
            self.forget_all()
            self._as_of = as_of

    def of(self, principal: str, continuation_id: str) -> KnownConversation | None:
        name = principal, continuation_id
        with self._lock:
            found = self._known.get(name)
            if found is not None:
                self._known.move_to_end(name)
            return found

    def keep(self, conversation: KnownConversation) -> None:
        """In place of what was known of it."""
        with self._lock:
            before = self._known.pop(conversation.name, None)
            if before is not None:
                self._characters -= before.characters
                if before.key == conversation.key:
                    conversation.learn_from(before)
            self._known[conversation.name] = conversation
            self._count(conversation, 0)

    def learn(self, conversation: KnownConversation, turns: Mapping[int, KnownTurn]) -> None:
        """What some of its newest turns say, unless it was forgotten meanwhile."""
        with self._lock:
            if self._known.get(conversation.name) is conversation:
                before = conversation.characters
                conversation.learn(turns)
                self._count(conversation, before)

    def begun(self, turn_id: str, intent: Intent) -> None:
        if intent.prompt is not None and intent.prompt.characters > _LONGEST_PROMPT:
            intent = intent._replace(prompt=None)
        if len(self._intents) >= _MOST_INTENTS:
            del self._intents[next(iter(self._intents))]
        self._intents[turn_id] = intent

    def ended(self, turn_id: str, principal: str, digest: str) -> Intent | None:
        """What was noted of the turn when it began. It is not any more."""
        intent = self._intents.pop(turn_id, None)
        if intent is None or intent.digest != digest or intent.name[0] != principal:
            return None
        return intent

    def begun_elsewhere(self, name: tuple[str, str], key: int, place: int, expires_at: str | None) -> None:
        """The conversation has its newest turn at `place`, of which nothing is noted, and its end at `expires_at`."""
        if (conversation := self._known.get(name)) is not None and conversation.key == key:
            conversation.moved_on(place, expires_at)

    def answered(self, name: tuple[str, str], key: int, place: int, tokens: int, turn: KnownTurn | None = None) -> None:
        """A turn has its answer; `turn` if its content is known."""
        with self._lock:
            conversation = self._known.get(name)
            if conversation is not None and conversation.key == key:
                before = conversation.characters
                conversation.answered(place, tokens, turn)
                self._count(conversation, before)

    def renewed(self, turn_ids: Collection[str]) -> None:
        """Their leases are others now than when they began."""
        for turn_id in turn_ids:
            if (intent := self._intents.get(turn_id)) is not None:
                self._intents[turn_id] = intent._replace(prompt=None)

    def forget(self, principal: str, continuation_id: str) -> None:
        """The conversation has lost its name; so have its turns that have not ended."""
        name = principal, continuation_id
        with self._lock:
            gone = self._known.pop(name, None)
            self._characters -= gone.characters if gone is not None else 0
        self._intents = {turn_id: intent for turn_id, intent in self._intents.items() if intent.name != name}

    def forget_all(self) -> None:
        with self._lock:
            self._known.clear()
            self._characters = 0
            self._intents.clear()

    def _count(self, conversation: KnownConversation, before: int) -> None:
        """`before`: its characters, as they were counted."""
        if conversation.characters > self._most_characters // 4:  # One conversation is not worth all the others.
            conversation.forget_texts()
        self._characters += conversation.characters - before
        while self._characters > self._most_characters:
            _, oldest = self._known.popitem(last=False)
            self._characters -= oldest.characters
