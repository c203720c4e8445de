"""Searching, removing and counting what is kept in memory."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from perdure.middleware.persistence.excerpts import answers, excerpt_of
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.question import Question
from perdure.middleware.persistence.turn import Outcome, StoredFile, Turn
from perdure.middleware.persistence.upkeep import FileName, Hit, HitPosition, Removed, Statistics

__all__ = ["HasTurns", "MemoryUpkeep"]


class HasTurns(Protocol):
    principal: str
    continuation_id: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    turns: list[Turn]

    def own_turns(self) -> list[Turn]: ...

    def needed(self) -> int: ...


class MemoryUpkeep:
    _clock: Clock
    _lock: threading.Lock

    def search(self, question: Question, *, before: HitPosition | None = None, limit: int = 20) -> list[Hit]:
        with self._lock:
            asked = [kept for kept in self._living() if question.continuation_id in (None, kept.continuation_id)]
            asked.sort(key=lambda kept: (kept.updated_at, kept.continuation_id))
            # Each once: as its own conversation's, else as that of the fork that was used last.
            shown = {turn.id: (kept, turn) for kept in asked for turn in kept.turns}
            shown |= {turn.id: (kept, turn) for kept in asked for turn in kept.own_turns()}
            hits = [hit for kept, turn in shown.values() for hit in self._hits(question, kept, turn)]
        hits.sort(key=lambda hit: hit.position, reverse=True)
        return [hit for hit in hits if before is None or hit.position < before][:limit]

    def delete(self, principal: str, continuation_id: str) -> Removed:
        with self._lock:
            return self._remove(
                [
                    kept
                    for kept in self._living()
                    if (kept.principal, kept.continuation_id) == (principal, continuation_id)
                ]
            )

    def purge(self, *, limit: int = 100, dry_run: bool = False) -> Removed:
        with self._lock:
            gone = [kept for kept in self._all_conversations() if self._has_expired(kept)]
            gone.sort(key=lambda kept: (kept.expires_at, kept.created_at))
            return (self._about if dry_run else self._remove)(gone[:limit])

    def forget(self, principal: str, *, limit: int = 100) -> Removed:
        with self._lock:
            return self._remove([kept for kept in self._all_conversations() if kept.principal == principal][:limit])

    def statistics(self, principal: str | None = None) -> Statistics:
        now = self._clock.now()
        with self._lock:
            found = [kept for kept in self._all_conversations() if principal in (None, kept.principal)]
            living = [kept for kept in found if not self._has_expired(kept)]
            turns = {turn.id: turn.seen_at(now).outcome.value for kept in living for turn in kept.own_turns()}
            files = {(file.bucket, file.key): file.size for owner, file in self._named_files() if owner in living}
        return Statistics(
            users=len({kept.principal for kept in living}),
            conversations=len(living),
            turns=len(turns),
            outcomes=dict(sorted(Counter(turns.values()).items(), key=lambda counted: (-counted[1], counted[0]))),
            files=len(files),
            file_bytes=sum(files.values()),
            expired=len(found) - len(living),
            oldest=min((kept.created_at for kept in living), default=None),
            newest=max((kept.updated_at for kept in living), default=None),
        )

    def _all_conversations(self) -> Iterable[HasTurns]:
        """Those, too, that have expired and whose name another has by now."""
        raise NotImplementedError

    def _named_files(self) -> Sequence[tuple[HasTurns, StoredFile]]:
        raise NotImplementedError

    def _drop(self, gone: Sequence[HasTurns]) -> None:
        raise NotImplementedError

    def _living(self) -> Iterator[HasTurns]:
        return (kept for kept in self._all_conversations() if not self._has_expired(kept))

    def _has_expired(self, kept: HasTurns) -> bool:
        return kept.expires_at is not None and kept.expires_at <= self._clock.now()

    def _remove(self, gone: Sequence[HasTurns]) -> Removed:
        removed = self._about(gone)
        self._drop(gone)
        return removed

    def _about(self, gone: Sequence[HasTurns]) -> Removed:
        turns = [turn for kept in gone for turn in kept.own_turns() if (turn.place or 0) > kept.needed()]
        still_named = {(file.bucket, file.key) for owner, file in self._named_files() if owner not in gone}
        files = {(file.bucket, file.key) for owner, file in self._named_files() if owner in gone}
        contents = {(bucket, key.rpartition("/")[0]) for bucket, key in still_named}
        return Removed(
            conversations=len(gone),
            turns=len(turns),
            files=tuple(
                FileName(bucket, key, (bucket, key.rpartition("/")[0]) in contents)
                for bucket, key in sorted(files - still_named)
            ),
        )

    def _hits(self, question: Question, kept: HasTurns, turn: Turn) -> Iterator[Hit]:
        seen = turn.seen_at(self._clock.now())
        if not _is_asked_for(question, kept, seen):
            return
        messages: list[tuple[int, str, datetime]] = [(0, turn.prompt, turn.started_at)]
        if turn.answer is not None and turn.ended_at is not None and question.every:
            messages.append((1, turn.answer.text, turn.ended_at))
        for part, content, at in messages:
            within = (question.since is None or question.since <= at) and (
                question.until is None or at < question.until
            )
            if within and answers(question, content):
                yield Hit(
                    principal=kept.principal,
                    continuation_id=kept.continuation_id,
                    turn_id=turn.id,
                    place=turn.place or 0,
                    part=part,
                    tool=turn.tool,
                    outcome=seen.outcome,
                    created_at=at,
                    excerpt=excerpt_of(question, content),
                )


def _is_asked_for(question: Question, kept: HasTurns, turn: Turn) -> bool:
    wanted: list[tuple[str | Outcome | None, str | Outcome]] = [
        (question.principal, kept.principal),
        (question.continuation_id, kept.continuation_id),
        (question.tool, turn.tool),
        (question.outcome, turn.outcome),
    ]
    return all(asked in (None, found) for asked, found in wanted)
