"""Turns in memory: for tests, for trying out, and as the model that every other store is compared with."""

import bisect
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from perdure.errors import TurnConflict
from perdure.middleware.persistence.copied_turns import CopiedTurns, copied_answer, own_copy
from perdure.middleware.persistence.ports import Clock, SystemClock
from perdure.middleware.persistence.stores.memory_upkeep import HasTurns, MemoryUpkeep
from perdure.middleware.persistence.turn import (
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    Outcome,
    StoredFile,
    Turn,
    Window,
    copied,
)

__all__ = ["MemoryStore"]


class MemoryStore(MemoryUpkeep):
    blocking = False

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._conversations: dict[str, dict[str, _Conversation]] = defaultdict(dict)
        self._places: dict[str, tuple[_Conversation, int]] = {}
        self._files: list[tuple[str, StoredFile]] = []
        """By principal, in the order in which they were kept."""

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        with self._lock:
            conversation, place, replay = self._place(turn)
            return BegunTurn(
                continuation_id=conversation.name_for(turn),
                place=place,
                replay=replay,
                outcome=conversation.turns[place - 1].outcome,
                history=() if self._has_expired(conversation) else CopiedTurns(conversation.window(place, window)),
            )

    def finish(self, turn: Turn) -> FinishedTurn:
        with self._lock:
            conversation, place, _ = self._place(turn)
            kept = conversation.turns[place - 1]
            if kept.outcome is Outcome.RUNNING:
                kept = kept.changed(
                    outcome=turn.outcome,
                    answer=copied_answer(turn.answer),
                    ended_at=turn.ended_at or self._clock.now(),
                    tokens=turn.tokens,
                )
                conversation.turns[place - 1] = kept
                self._keep_files(conversation, turn, kept)
                if kept.outcome is Outcome.ANSWERED:
                    bisect.insort(conversation.answered, place)
            return FinishedTurn(
                continuation_id=conversation.name_for(turn),
                place=place,
                outcome=kept.outcome,
                files=tuple(file for _, file in self._files if file.turn_id == turn.id) if turn.files else (),
            )

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        with self._lock:
            for principal, turn_ids in turns.items():
                for turn_id in self._places.keys() & turn_ids:
                    conversation, place = self._places[turn_id]
                    kept = conversation.turns[place - 1]
                    if kept.principal == principal and kept.outcome is Outcome.RUNNING:
                        kept = replace(kept, lease_until=max(kept.lease_until, lease_until))
                        conversation.turns[place - 1] = kept

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        with self._lock:
            conversation = self._found(principal, continuation_id)
            page = conversation.turns[max(after, 0) : max(after, 0) + limit] if conversation else []
            return [own_copy(turn) for turn in page]

    def conversations(
        self,
        principal: str | None = None,
        continuation_id: str | None = None,
        *,
        before: tuple[datetime, str, str] | None = None,
        limit: int = 100,
    ) -> list[ConversationSummary]:
        with self._lock:
            lines = [
                conversation.summary()
                for owner, owned in self._conversations.items()
                if principal is None or owner == principal
                for conversation in owned.values()
                if continuation_id is None or conversation.continuation_id == continuation_id
                if not self._has_expired(conversation)
            ]
        lines.sort(key=_newest_first, reverse=True)
        return [line for line in lines if before is None or _newest_first(line) < before][:limit]

    def file(self, principal: str, key: str) -> StoredFile | None:
        with self._lock:
            return next((file for file in self._files_of(principal) if file.key == key), None)

    def files(
        self, principal: str, continuation_id: str | None = None, name: str | None = None, *, limit: int = 1000
    ) -> list[StoredFile]:
        with self._lock:
            found = [
                file
                for file in self._files_of(principal)
                if continuation_id in (None, file.continuation_id) and name in (None, file.name)
            ]
        return found[:limit]

    def close(self) -> None:
        pass

    def _all_conversations(self) -> "list[_Conversation]":
        return list({id(conversation): conversation for conversation, _ in self._places.values()}.values())

    def _drop(self, gone: "Sequence[HasTurns]") -> None:
        for conversation in gone:
            for turn in conversation.turns:
                del self._places[turn.id]
            owned = self._conversations[conversation.principal]
            if owned.get(conversation.continuation_id) is conversation:
                del owned[conversation.continuation_id]
        self._files = [(owner, file) for owner, file in self._files if file.turn_id in self._places]

    def _found(self, principal: str, continuation_id: str) -> "_Conversation | None":
        conversation = self._conversations[principal].get(continuation_id)
        return None if conversation is None or self._has_expired(conversation) else conversation

    def _files_of(self, principal: str) -> Iterator[StoredFile]:
        """Newest first."""
        for owner, file in reversed(self._files):
            if owner == principal and not self._has_expired(self._places[file.turn_id][0]):
                yield file

    def _keep_files(self, conversation: "_Conversation", turn: Turn, kept: Turn) -> None:
        for file in {(file.name, file.key): file for file in turn.files}.values():
            newest = conversation.versions.get(file.name)
            if newest is None or newest[1] != file.sha256:
                newest = (newest[0] + 1 if newest else 1, file.sha256)
                conversation.versions[file.name] = newest
            self._files.append(
                (
                    turn.principal,
                    replace(
                        file,
                        version=newest[0],
                        turn_id=turn.id,
                        continuation_id=conversation.continuation_id,
                        created_at=kept.ended_at,
                    ),
                )
            )

    def _place(self, turn: Turn) -> "tuple[_Conversation, int, bool]":
        """The turn's conversation, its place, and whether it was there already."""
        if turn.id in self._places:
            conversation, place = self._places[turn.id]
            kept = conversation.turns[place - 1]
            if kept.principal != turn.principal or kept.digest != turn.digest:
                raise TurnConflict(f"The turn id {turn.id} was used before for another call.")
            return conversation, place, True
        conversation = self._conversation(turn)
        place = len(conversation.turns) + 1
        now = self._clock.now()
        conversation.updated_at = max(conversation.updated_at, now)
        if turn.expire_after is not None:
            conversation.expires_at = now + turn.expire_after
        conversation.turns.append(
            turn.changed(
                arguments=copied(turn.arguments),
                metadata=copied(turn.metadata),
                place=place,
                continuation_id=conversation.continuation_id,
                outcome=Outcome.RUNNING,
                answer=None,
                ended_at=None,
                expire_after=None,
                tokens=0,
            )
        )
        self._places[turn.id] = conversation, place
        return conversation, place, False

    def _conversation(self, turn: Turn) -> "_Conversation":
        owned = self._conversations[turn.principal]
        conversation = self._found(turn.principal, turn.continuation_id)
        if conversation is not None and (turn.adopt or conversation.minted):
            return conversation
        adopted = turn.adopt or turn.minted
        if not adopted and (fresh := self._found(turn.principal, turn.fresh_id)) is not None:
            return fresh
        now = self._clock.now()
        wanted = turn.continuation_id if adopted else turn.fresh_id
        if (expired := owned.get(wanted)) is not None:
            expired.set_aside = True
        conversation = _Conversation(
            principal=turn.principal,
            continuation_id=wanted,
            minted=turn.minted or not adopted,
            created_at=now,
            updated_at=now,
        )
        owned[conversation.continuation_id] = conversation
        return conversation


@dataclass(slots=True, kw_only=True)
class _Conversation:
    principal: str
    continuation_id: str
    minted: bool
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    set_aside: bool = False
    """It has expired, and another has its name by now."""
    turns: list[Turn] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    """Places of the answered turns, sorted."""
    versions: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The newest version and its hash, by logical name."""

    def name_for(self, turn: Turn) -> str:
        """Under which whoever writes `turn` knows this conversation."""
        return turn.continuation_id if self.set_aside else self.continuation_id

    def window(self, place: int, window: Window) -> tuple[Turn, ...]:
        kept: list[Turn] = []
        spent = 0
        before = bisect.bisect_left(self.answered, place)
        for index in range(before - 1, max(before - 1 - window.turns, -1), -1):
            turn = self.turns[self.answered[index] - 1]
            spent += turn.tokens
            if spent > window.tokens:
                break
            kept.append(turn)
        return tuple(reversed(kept))

    def summary(self) -> ConversationSummary:
        return ConversationSummary(
            principal=self.principal,
            continuation_id=self.continuation_id,
            turns=len(self.turns),
            created_at=self.created_at,
            updated_at=self.updated_at,
            minted=self.minted,
            expires_at=self.expires_at,
        )


def _newest_first(line: ConversationSummary) -> tuple[datetime, str, str]:
    return line.updated_at, line.principal, line.continuation_id
