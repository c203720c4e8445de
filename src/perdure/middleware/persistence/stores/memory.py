"""Turns in memory: for tests, for trying out, and as the model that every other store is compared with."""

import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from perdure.errors import ConversationFull, ForkRefused, TurnConflict
from perdure.middleware.persistence.copied_turns import CopiedTurns, copied_answer, own_copy
from perdure.middleware.persistence.ports import Clock, SystemClock
from perdure.middleware.persistence.serialization import digest
from perdure.middleware.persistence.stores.memory_conversation import MemoryConversation
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
from perdure.quick_values import making

__all__ = ["MemoryStore"]

_RUNNING = Outcome.RUNNING

_begun_turn, _finished_turn = making(BegunTurn), making(FinishedTurn)


class MemoryStore(MemoryUpkeep):
    blocking = False
    makes_digests = True

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._conversations: dict[str, dict[str, MemoryConversation]] = defaultdict(dict)
        self._places: dict[str, tuple[MemoryConversation, int]] = {}
        self._everything: list[MemoryConversation] = []
        """Those, too, that have expired and whose name another has by now."""
        self._files: list[tuple[MemoryConversation, StoredFile]] = []
        """In the order in which they were kept."""

    # `begin` and `finish` take part in every call, so both are few functions of few statements.

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        with self._lock:
            here = self._places.get(turn.id)
            conversation, place = self._placed(turn, window.last_place) if here is None else _of_same_call(turn, here)
            before = conversation.window(place, window) if place > 1 and not self._has_expired(conversation) else ()
            return _begun_turn(
                continuation_id=conversation.name_for(turn),
                place=place,
                replay=here is not None,
                outcome=_RUNNING if here is None else conversation.turns[place - 1].outcome,
                history=CopiedTurns(before) if before else (),
            )

    def finish(self, turn: Turn) -> FinishedTurn:
        with self._lock:
            here = self._places.get(turn.id)
            conversation, place = self._placed(turn) if here is None else _of_same_call(turn, here)
            kept = conversation.turns[place - 1]
            if kept.outcome is _RUNNING:
                ended_at = turn.ended_at or self._clock.now()
                kept = kept.finished(turn.outcome, ended_at, copied_answer(turn.answer), turn.tokens)
                conversation.settle(place, kept)
                if turn.files:
                    self._keep_files(conversation, turn, kept)
            name = conversation.name_for(turn)
            files = self._files_given_out(conversation, turn.id, name) if turn.files else ()
            return _finished_turn(continuation_id=name, place=place, outcome=kept.outcome, files=files)

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        with self._lock:
            for principal, turn_ids in turns.items():
                for turn_id in self._places.keys() & turn_ids:
                    conversation, place = self._places[turn_id]
                    kept = conversation.turns[place - 1]
                    if kept.principal == principal and kept.outcome is _RUNNING:
                        conversation.settle(place, replace(kept, lease_until=max(kept.lease_until, lease_until)))

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        with self._lock:
            conversation = self._found(principal, continuation_id)
            page = conversation.turns[max(after, 0) : max(after, 0) + limit] if conversation else []
            return [own_copy(turn if turn.digest else turn.changed(digest=_digest_of(turn))) for turn in page]

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

    def fork(
        self, principal: str, continuation_id: str, place: int, new_id: str, *, minted: bool = False
    ) -> ConversationSummary:
        with self._lock:
            source = self._found(principal, continuation_id)
            if source is None or not 1 <= place <= len(source.turns):
                raise ForkRefused(
                    f"There is no turn {place} in the conversation {continuation_id!r}.",
                    remedy=f"`perdure conversations show {continuation_id}` shows its turns.",
                )
            if self._found(principal, new_id) is not None:
                raise ForkRefused(f"There is a conversation {new_id!r} already.", remedy="choose another id.")
            fork = self._made(principal, new_id, self._clock.now(), minted=minted)
            fork.share(source, place)
            shared = {turn.id for turn in fork.turns}
            for owner, file in list(self._files):
                if owner is source and file.turn_id in shared:
                    self._files.append((fork, replace(file, continuation_id=new_id)))
                    fork.versions[file.name] = file.version, file.sha256
            return fork.summary()

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

    def _all_conversations(self) -> "list[MemoryConversation]":
        return self._everything

    def _named_files(self) -> "list[tuple[MemoryConversation, StoredFile]]":
        return self._files

    def _drop(self, gone: "Sequence[HasTurns]") -> None:
        ids = {id(conversation) for conversation in gone}
        dropped = [conversation for conversation in self._everything if id(conversation) in ids]
        self._everything = [conversation for conversation in self._everything if id(conversation) not in ids]
        self._files = [(owner, file) for owner, file in self._files if id(owner) not in ids]
        for conversation in dropped:
            conversation.set_aside = True
            owned = self._conversations[conversation.principal]
            if owned.get(conversation.continuation_id) is conversation:
                del owned[conversation.continuation_id]
            self._release(conversation)

    def _release(self, conversation: MemoryConversation) -> None:
        """Of one that is gone for everybody but its forks: let go of the turns that they do not need."""
        for turn in conversation.own_turns():
            if turn.place is not None and turn.place > conversation.needed():
                self._places.pop(turn.id, None)
        if not conversation.forks and (parent := conversation.parent) is not None:
            conversation.parent = None
            parent.forks = tuple(fork for fork in parent.forks if fork is not conversation)
            if parent.set_aside and parent not in self._everything:
                self._release(parent)

    def _found(self, principal: str, continuation_id: str) -> "MemoryConversation | None":
        conversation = self._conversations[principal].get(continuation_id)
        return None if conversation is None or self._has_expired(conversation) else conversation

    def _files_of(self, principal: str) -> Iterator[StoredFile]:
        """Newest first."""
        for owner, file in reversed(self._files):
            if owner.principal == principal and not self._has_expired(owner):
                yield file

    def _keep_files(self, conversation: MemoryConversation, turn: Turn, kept: Turn) -> None:
        for file in {(file.name, file.key): file for file in turn.files}.values():
            newest = conversation.versions.get(file.name)
            if newest is None or newest[1] != file.sha256:
                newest = (newest[0] + 1 if newest else 1, file.sha256)
                conversation.versions[file.name] = newest
            self._files.append(
                (
                    conversation,
                    replace(
                        file,
                        version=newest[0],
                        turn_id=turn.id,
                        continuation_id=conversation.continuation_id,
                        created_at=kept.ended_at,
                    ),
                )
            )

    def _files_given_out(self, conversation: MemoryConversation, turn_id: str, name: str) -> tuple[StoredFile, ...]:
        return tuple(
            replace(file, continuation_id=name)
            for owner, file in self._files
            if owner is conversation and file.turn_id == turn_id
        )

    def _placed(self, turn: Turn, last: int | None = None) -> tuple[MemoryConversation, int]:
        """The conversation of `turn`, which was not here yet, and the place that it has there from now on.

        Raises:
            ConversationFull: Place `last` was given already.
        """
        now = self._clock.now()
        conversation = self._conversations[turn.principal].get(turn.continuation_id)
        if conversation is None and turn.minted:
            conversation = self._made(turn.principal, turn.continuation_id, now, minted=True)
        elif conversation is None or conversation.expires_at is not None or not (turn.adopt or conversation.minted):
            conversation = self._conversation(turn, now)
        place = len(conversation.turns) + 1
        if last is not None and place > last:
            raise ConversationFull(conversation.continuation_id, place - 1)
        conversation.updated_at = max(conversation.updated_at, now)
        if turn.expire_after is not None:
            conversation.expires_at = now + turn.expire_after
        kept = turn.begun(copied(turn.arguments), copied(turn.metadata), conversation.continuation_id, place)
        if turn.outcome is not _RUNNING or turn.answer or turn.ended_at or turn.expire_after is not None or turn.tokens:
            kept = kept.changed(outcome=_RUNNING, answer=None, ended_at=None, expire_after=None, tokens=0)
        conversation.turns.append(kept)
        here = self._places[turn.id] = conversation, place
        return here

    def _conversation(self, turn: Turn, now: datetime) -> MemoryConversation:
        conversation = self._found(turn.principal, turn.continuation_id)
        if conversation is not None and (turn.adopt or conversation.minted):
            return conversation
        adopted = turn.adopt or turn.minted
        if not adopted and (fresh := self._found(turn.principal, turn.fresh_id)) is not None:
            return fresh
        wanted = turn.continuation_id if adopted else turn.fresh_id
        return self._made(turn.principal, wanted, now, minted=turn.minted or not adopted)

    def _made(self, principal: str, wanted: str, now: datetime, *, minted: bool) -> MemoryConversation:
        owned = self._conversations[principal]
        if (expired := owned.get(wanted)) is not None:
            expired.set_aside = True
        conversation = MemoryConversation(principal, wanted, now, minted)
        owned[conversation.continuation_id] = conversation
        self._everything.append(conversation)
        return conversation


def _of_same_call(turn: Turn, here: tuple[MemoryConversation, int]) -> tuple[MemoryConversation, int]:
    """`here`, where a turn with the id of `turn` is.

    Raises:
        TurnConflict: It is another call's.
    """
    conversation, place = here
    kept = conversation.turns[place - 1]
    # Two without a digest are compared as they are, which takes a fraction of the time that two digests take.
    is_same = kept.digest == turn.digest and (
        kept.digest != "" or (kept.tool == turn.tool and kept.arguments == turn.arguments)
    )
    if kept.principal != turn.principal or not (is_same or _digest_of(kept) == _digest_of(turn)):
        raise TurnConflict(f"The turn id {turn.id} was used before for another call.")
    return here


def _digest_of(turn: Turn) -> str:
    return turn.digest or digest(turn.tool, turn.arguments)


def _newest_first(line: ConversationSummary) -> tuple[datetime, str, str]:
    return line.updated_at, line.principal, line.continuation_id
