"""Writes turns, within a transaction that somebody else has begun. The statements are in `sql/sqlite/queries.sql`.

A turn in a conversation that is known here takes two statements, and its end one. For anything else it is looked up
what there is.
"""

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from perdure.errors import ConversationFull, TurnConflict
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.sqlite.histories import Histories, HistoryPlan
from perdure.middleware.persistence.stores.sqlite.known_conversations import (
    Intent,
    KnownConversation,
    KnownConversations,
)
from perdure.middleware.persistence.stores.sqlite.rows import file_of
from perdure.middleware.persistence.stores.sqlite.written_rows import AnswerRow, PromptRow, as_read, prompt_row
from perdure.middleware.persistence.turn import FinishedTurn, Outcome, StoredFile, Turn, Window

__all__ = ["Place", "TurnWriting"]


class Place(NamedTuple):
    """Where a turn stands."""

    key: int
    """Of its conversation."""
    continuation_id: str
    number: int
    before: HistoryPlan | None = None
    """The turns before it; None of a fork, and where nobody asked."""
    replay: bool = False
    outcome: Outcome = Outcome.RUNNING
    expired: bool = False
    forked: bool = False


class _Session(NamedTuple):
    """A conversation as it stands in the database."""

    key: int
    continuation_id: str
    last_place: int = 0
    minted: bool = False
    expires_at: str | None = None
    forked: bool = False


class TurnWriting:
    def __init__(self, sql: Mapping[str, str], clock: Clock, known: KnownConversations, histories: Histories) -> None:
        self._sql = sql
        self._clock = clock
        self._known = known
        self._histories = histories

    def begin(self, connection: sqlite3.Connection, prompt: PromptRow, window: Window) -> Place:
        """
        Raises:
            TurnConflict: The id was used before for another call.
            ConversationFull: The window's last place was given already.
        """
        turn, now = prompt.turn, self._clock.now()
        self._known.forget_if_others_wrote(connection)
        conversation = self._known.of(turn.principal, turn.continuation_id)
        at = now.isoformat()
        if conversation is not None and conversation.takes(turn, at, window):
            number = conversation.last_place + 1
            if self._add_prompt(connection, prompt, conversation.key, number):
                self._known.has_news = True
                conversation.moved_on(number, self._take_place(connection, turn, conversation.key, number, now, at))
                return self._begun(connection, prompt, conversation, window)
        found = self._found(connection, turn, now)
        if found is not None:
            return found if found.forked else self._with_history(connection, turn, found, window)
        session = self._placed(connection, prompt, now, window.last_place)
        if session.forked:
            return Place(session.key, session.continuation_id, session.last_place, forked=True)
        conversation = KnownConversation(
            (turn.principal, session.continuation_id),
            session.key,
            session.last_place,
            self._histories.newest(connection, session.key, session.last_place, window.turns),
            depth=window.turns,
            minted=session.minted,
            expires_at=session.expires_at,
        )
        self._known.keep(conversation)
        return self._begun(connection, prompt, conversation, window)

    def finish(self, connection: sqlite3.Connection, answer: AnswerRow) -> FinishedTurn:
        """
        Raises:
            TurnConflict: The id was used before for another call.
        """
        turn = answer.turn
        intent = self._known.ended(turn.id)
        place, known = None, None
        if intent is not None and (place := self._finished_as_it_began(connection, answer, intent)) and intent.prompt:
            known = as_read(intent.prompt, answer, place.continuation_id, place.number)
        if place is None:
            place = self._finished(connection, answer)
        if place.outcome is Outcome.ANSWERED and not place.replay:
            self._known.answered((turn.principal, place.continuation_id), place.key, place.number, turn.tokens, known)
        return FinishedTurn(
            continuation_id=place.continuation_id,
            place=place.number,
            outcome=place.outcome,
            files=self._files(connection, turn, place) if turn.files else (),
        )

    # ── a turn in a conversation that is known ───────────────────────────────────────────────────────────────────

    def _begun(
        self, connection: sqlite3.Connection, prompt: PromptRow, conversation: KnownConversation, window: Window
    ) -> Place:
        turn, place = prompt.turn, conversation.last_place
        self._known.begun(turn.id, Intent(conversation.name, conversation.key, place, turn.digest, prompt))
        before = self._histories.plan(connection, conversation, window)
        return Place(conversation.key, conversation.name[1], place, before)

    def _add_prompt(self, connection: sqlite3.Connection, prompt: PromptRow, key: int, place: int) -> bool:
        """Says whether it was added: not if there is a turn with this id."""
        turn = prompt.turn
        added = connection.execute(
            self._sql["add_prompt"],
            (
                key << 32 | place << 1,
                key,
                turn.id,
                place,
                prompt.content,
                prompt.body,
                turn.tool,
                turn.digest,
                turn.after_place,
                turn.deferred,
                prompt.lease_until,
                prompt.started_at,
                prompt.metadata,
            ),
        )
        return added.rowcount > 0

    def _take_place(
        self, connection: sqlite3.Connection, turn: Turn, key: int, place: int, now: datetime, at: str
    ) -> str | None:
        """Returns the conversation's new end, if it has one."""
        expires_at = (now + turn.expire_after).isoformat() if turn.expire_after else None
        connection.execute(self._sql["take_place"], (key, place, at, expires_at))
        return expires_at

    def _finished_as_it_began(self, connection: sqlite3.Connection, answer: AnswerRow, intent: Intent) -> Place | None:
        """None unless the turn stands where it was begun, and has no answer: the statement itself looks for both."""
        turn = answer.turn
        if intent.digest != turn.digest or intent.name[0] != turn.principal:
            return None
        try:
            if not self._add_answer(connection, answer, intent.key, intent.place):
                return None
        except sqlite3.IntegrityError:
            return None  # It is not there: somebody has deleted it.
        return Place(intent.key, intent.name[1], intent.place, outcome=turn.outcome)

    def _add_answer(self, connection: sqlite3.Connection, answer: AnswerRow, key: int, place: int) -> bool:
        """Says whether it was added: not if there is one.

        Raises:
            sqlite3.IntegrityError: The turn is not at that place.
        """
        turn = answer.turn
        added = connection.execute(
            self._sql["add_answer"],
            (
                key << 32 | place << 1,
                turn.id,
                turn.digest,
                place,
                answer.content,
                answer.body,
                turn.outcome.value,
                turn.tokens,
                answer.ended_at,
            ),
        )
        return added.rowcount > 0

    # ── what is looked up ────────────────────────────────────────────────────────────────────────────────────────

    def _found(self, connection: sqlite3.Connection, turn: Turn, now: datetime) -> Place | None:
        """Where the turn stands already.

        Raises:
            TurnConflict: It is another.
        """
        found = connection.execute(self._sql["find_turn"], (turn.id,)).fetchone()
        if found is None:
            return None
        if found["user_id"] != turn.principal or found["digest"] != turn.digest:
            raise TurnConflict(f"The turn id {turn.id} was used before for another call.")
        return Place(
            found["id"],
            # One that was set aside has no name of its own any more, but the caller knows it by the old one.
            found["continuation_id"] or turn.continuation_id,
            found["turn_seq"],
            replay=True,
            outcome=Outcome(found["outcome"] or Outcome.RUNNING),
            expired=found["expires_at"] is not None and found["expires_at"] <= now.isoformat(),
            forked=bool(found["forked"]),
        )

    def _with_history(self, connection: sqlite3.Connection, turn: Turn, found: Place, window: Window) -> Place:
        """Of a turn that was here already: nothing of that is noted."""
        newest = self._histories.newest(connection, found.key, found.number, window.turns)
        name = turn.principal, found.continuation_id
        conversation = KnownConversation(name, found.key, found.number, newest, depth=window.turns)
        return found._replace(before=self._histories.plan(connection, conversation, window))

    def _placed(self, connection: sqlite3.Connection, prompt: PromptRow, now: datetime, last: int | None) -> _Session:
        """The conversation of a new turn, which has its last place now.

        Raises:
            ConversationFull: Place `last` was given already.
        """
        turn = prompt.turn
        at = now.isoformat()
        session = self._session(connection, turn, at)
        place = session.last_place + 1
        if last is not None and place > last:
            raise ConversationFull(session.continuation_id, session.last_place)
        expires_at = self._take_place(connection, turn, session.key, place, now, at) or session.expires_at
        self._add_prompt(connection, prompt, session.key, place)
        return session._replace(last_place=place, expires_at=expires_at)

    def _session(self, connection: sqlite3.Connection, turn: Turn, now: str) -> _Session:
        """Find or make the conversation."""
        continuation_id = turn.continuation_id
        wanted = {"user_id": turn.principal, "continuation_id": continuation_id, "adopt": turn.adopt, "now": now}
        found = connection.execute(self._sql["find_session"], wanted).fetchone()
        if found is not None:
            return _session_of(found)
        adopted = turn.adopt or turn.minted
        if not adopted:
            continuation_id = wanted["continuation_id"] = turn.fresh_id
            found = connection.execute(self._sql["find_session"], wanted).fetchone()
            if found is not None:
                return _session_of(found)
        if connection.execute(self._sql["set_aside"], wanted).rowcount:
            self._known.forget(turn.principal, continuation_id)
        minted = turn.minted or not adopted
        added = connection.execute(self._sql["add_session"], {**wanted, "minted": minted})
        return _Session(added.lastrowid or 0, continuation_id, minted=minted)

    def _finished(self, connection: sqlite3.Connection, answer: AnswerRow) -> Place:
        """Where a turn stands that has ended now, or before: then it is a replay."""
        turn, now = answer.turn, self._clock.now()
        place = self._found(connection, turn, now)
        if place is None:
            session = self._placed(connection, prompt_row(turn), now, None)
            place = Place(session.key, session.continuation_id, session.last_place)
            self._known.begun_elsewhere((turn.principal, place.continuation_id), place.key, place.number)
        if self._add_answer(connection, answer, place.key, place.number):
            return place._replace(outcome=turn.outcome, replay=False)
        return place._replace(replay=True)

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _files(self, connection: sqlite3.Connection, turn: Turn, place: Place) -> tuple[StoredFile, ...]:
        """Those of a finished turn, which are added unless it had ended before."""
        if not place.replay:
            for file in turn.files:
                self._add_file(connection, turn, file, place.key)
        of_turn = {"turn_id": turn.id, "session_id": place.key, "continuation_id": place.continuation_id}
        return tuple(map(file_of, connection.execute(self._sql["files_of_turn"], of_turn)))

    def _add_file(self, connection: sqlite3.Connection, turn: Turn, file: StoredFile, key: int) -> None:
        newest = connection.execute(self._sql["newest_version"], {"session_id": key, "name": file.name}).fetchone()
        version, content = (newest["version"], newest["sha256"]) if newest else (0, None)
        connection.execute(
            self._sql["add_file"],
            {
                "session_id": key,
                "name": file.name,
                "version": version if content == file.sha256 else version + 1,
                "turn_id": turn.id,
                "user_id": turn.principal,
                "bucket": file.bucket,
                "key": file.key,
                "sha256": file.sha256,
                "size": file.size,
                "media_type": file.media_type,
                "created_at": (turn.ended_at or self._clock.now()).isoformat(),
            },
        )


def _session_of(row: sqlite3.Row) -> _Session:
    return _Session(
        row["id"],
        row["continuation_id"],
        row["last_place"],
        bool(row["minted"]),
        row["expires_at"],
        bool(row["forked"]),
    )
