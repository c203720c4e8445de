"""Writes turns, within a transaction that somebody else has begun. The statements are in `sql/sqlite/queries.sql`.

A turn in a conversation that is known here takes two statements, and its end one. For anything else it is looked up
what there is.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from perdure.errors import ConversationFull, TurnConflict
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.sqlite_file.group_writer import Refused
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

    def begin(
        self, connection: sqlite3.Connection, wanted: Sequence[tuple[PromptRow, Window]]
    ) -> Sequence[Place | Refused]:
        """Each refused with a `TurnConflict`, if its id was used before for another call, or with a `ConversationFull`,
        if the window's last place was given already.
        """
        self._known.forget_if_others_wrote(connection)
        now = self._clock.now()
        if len(wanted) > 1:
            return self._begun_together(connection, wanted, now)
        ((prompt, window),) = wanted
        return [self._begun(connection, prompt, window, now)]

    def finish(self, connection: sqlite3.Connection, answers: Sequence[AnswerRow]) -> Sequence[FinishedTurn | Refused]:
        """Each refused with a `TurnConflict`, if its id was used before for another call."""
        if len(answers) > 1:
            return self._finished_together(connection, answers)
        return [self._finished(connection, answers[0])]

    # ── one turn ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _begun(
        self, connection: sqlite3.Connection, prompt: PromptRow, window: Window, now: datetime
    ) -> Place | Refused:
        turn, at = prompt.turn, now.isoformat()
        conversation = self._known.of(turn.principal, turn.continuation_id)
        if conversation is not None and conversation.takes(turn, at, window):
            place = conversation.last_place + 1
            values = prompt.values(conversation.key, place)
            if connection.execute(self._sql["add_prompt"], values).rowcount:
                self._known.has_news = True
                move = _move(turn, conversation, place, now, at)
                connection.execute(self._sql["take_place"], move)
                conversation.moved_on(place, move[-1])
                return self._noted(connection, prompt, conversation, place, window)
        try:
            found = self._found(connection, turn, now)
            if found is None:
                return self._begun_anew(connection, prompt, window, now)
        except (TurnConflict, ConversationFull) as error:
            return Refused(error)
        return found if found.forked else self._with_history(connection, turn, found, window)

    def _finished(self, connection: sqlite3.Connection, answer: AnswerRow) -> FinishedTurn | Refused:
        turn = answer.turn
        intent = self._known.ended(turn.id, turn.principal, turn.digest)
        if intent is not None:
            with suppress(sqlite3.IntegrityError):  # It is not there any more: somebody has deleted it.
                values = answer.values(intent.key, intent.place)
                if connection.execute(self._sql["add_answer"], values).rowcount:
                    return self._ended(connection, answer, intent)
        try:
            place = self._looked_up(connection, turn)
        except TurnConflict as error:
            return Refused(error)
        added = connection.execute(self._sql["add_answer"], answer.values(place.key, place.number)).rowcount > 0
        if added and turn.outcome is Outcome.ANSWERED:
            name = turn.principal, place.continuation_id
            self._known.answered(name, place.key, place.number, turn.tokens)
        return FinishedTurn(
            continuation_id=place.continuation_id,
            place=place.number,
            outcome=turn.outcome if added else place.outcome,
            files=self._files(connection, turn, place.key, place.continuation_id, added=added) if turn.files else (),
        )

    # ── many turns, in conversations that are known; if anything is otherwise, each is written apart ──────────────

    def _begun_together(
        self, connection: sqlite3.Connection, wanted: Sequence[tuple[PromptRow, Window]], now: datetime
    ) -> Sequence[Place | Refused]:
        at = now.isoformat()
        prompts, moves, begun = [], [], []
        others: list[int] = []
        for number, (prompt, window) in enumerate(wanted):
            turn = prompt.turn
            conversation = self._known.of(turn.principal, turn.continuation_id)
            if conversation is None or not conversation.takes(turn, at, window):
                others.append(number)
                continue
            self._known.has_news = True
            place = conversation.last_place + 1
            move = _move(turn, conversation, place, now, at)
            conversation.moved_on(place, move[-1])
            prompts.append(prompt.values(conversation.key, place))
            moves.append(move)
            begun.append((number, conversation, place))
        self._add_all(connection, "add_prompt", prompts)
        connection.executemany(self._sql["take_place"], moves)
        results: dict[int, Place | Refused] = {}
        for number, conversation, place in begun:
            prompt, window = wanted[number]
            results[number] = self._noted(connection, prompt, conversation, place, window)
        for number in others:
            results[number] = self._begun(connection, *wanted[number], now)
        return [results[number] for number in range(len(wanted))]

    def _finished_together(
        self, connection: sqlite3.Connection, answers: Sequence[AnswerRow]
    ) -> Sequence[FinishedTurn | Refused]:
        intents = [self._known.ended(row.turn.id, row.turn.principal, row.turn.digest) for row in answers]
        known = [(row, intent) for row, intent in zip(answers, intents, strict=True) if intent is not None]
        values = [row.values(intent.key, intent.place) for row, intent in known]
        self._add_all(connection, "add_answer", values)
        return [
            self._ended(connection, row, intent) if intent is not None else self._finished(connection, row)
            for row, intent in zip(answers, intents, strict=True)
        ]

    def _add_all(self, connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows and connection.executemany(self._sql[statement], rows).rowcount < len(rows):
            raise _NotAllNew

    # ── what is known of them ────────────────────────────────────────────────────────────────────────────────────

    def _noted(
        self,
        connection: sqlite3.Connection,
        prompt: PromptRow,
        conversation: KnownConversation,
        place: int,
        window: Window,
    ) -> Place:
        """A turn has begun."""
        turn, key = prompt.turn, conversation.key
        self._known.begun(turn.id, Intent(conversation.name, key, place, turn.digest, prompt))
        before = self._histories.plan(connection, conversation, window)
        return Place(key, conversation.name[1], place, before)

    def _ended(self, connection: sqlite3.Connection, answer: AnswerRow, intent: Intent) -> FinishedTurn:
        """A turn has ended as it had begun."""
        turn, continuation_id, place = answer.turn, intent.name[1], intent.place
        if turn.outcome is Outcome.ANSWERED:
            read = as_read(intent.prompt, answer, continuation_id, place) if intent.prompt is not None else None
            self._known.answered(intent.name, intent.key, place, turn.tokens, read)
        return FinishedTurn(
            continuation_id=continuation_id,
            place=place,
            outcome=turn.outcome,
            files=self._files(connection, turn, intent.key, continuation_id, added=True) if turn.files else (),
        )

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

    def _begun_anew(self, connection: sqlite3.Connection, prompt: PromptRow, window: Window, now: datetime) -> Place:
        session = self._placed(connection, prompt, now, window.last_place)
        if session.forked:
            return Place(session.key, session.continuation_id, session.last_place, forked=True)
        conversation = KnownConversation(
            (prompt.turn.principal, session.continuation_id),
            session.key,
            session.last_place,
            self._histories.newest(connection, session.key, session.last_place, window.turns),
            depth=window.turns,
            minted=session.minted,
            expires_at=session.expires_at,
        )
        self._known.keep(conversation)
        return self._noted(connection, prompt, conversation, session.last_place, window)

    def _looked_up(self, connection: sqlite3.Connection, turn: Turn) -> Place:
        """Where a turn stands that has ended. If it was never begun, it is now."""
        now = self._clock.now()
        place = self._found(connection, turn, now)
        if place is not None:
            return place
        session = self._placed(connection, prompt_row(turn), now, None)
        place = Place(session.key, session.continuation_id, session.last_place)
        self._known.begun_elsewhere((turn.principal, place.continuation_id), place.key, place.number)
        return place

    def _placed(self, connection: sqlite3.Connection, prompt: PromptRow, now: datetime, last: int | None) -> _Session:
        """The conversation of a new turn, which has its last place now.

        Raises:
            ConversationFull: Place `last` was given already.
        """
        turn, at = prompt.turn, now.isoformat()
        session = self._session(connection, turn, at)
        place = session.last_place + 1
        if last is not None and place > last:
            raise ConversationFull(session.continuation_id, session.last_place)
        move = _move(turn, session, place, now, at)
        connection.execute(self._sql["take_place"], move)
        connection.execute(self._sql["add_prompt"], prompt.values(session.key, place))
        return session._replace(last_place=place, expires_at=move[-1] or session.expires_at)

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

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _files(
        self, connection: sqlite3.Connection, turn: Turn, key: int, continuation_id: str, *, added: bool
    ) -> tuple[StoredFile, ...]:
        """Those of a finished turn, which come with its answer, if that was `added` now."""
        if added:
            for file in turn.files:
                self._add_file(connection, turn, file, key)
        of_turn = {"turn_id": turn.id, "session_id": key, "continuation_id": continuation_id}
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


def _move(
    turn: Turn, conversation: "KnownConversation | _Session", place: int, now: datetime, at: str
) -> tuple[int, int, str, str | None]:
    """What `take_place` is given; its last is the conversation's new end, if it has one."""
    return conversation.key, place, at, (now + turn.expire_after).isoformat() if turn.expire_after else None


class _NotAllNew(Exception):
    """Of many turns, that is: who wrote them writes each apart, and finds out which."""
