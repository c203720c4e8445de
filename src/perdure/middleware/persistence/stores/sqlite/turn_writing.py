"""Writes turns, within a transaction that somebody else has begun. The statements are in `sql/sqlite/queries.sql`.

A turn in a conversation that is known here takes two statements, and its end one. For anything else it is looked up
what there is.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from perdure.errors import ConversationFull, TurnConflict
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.sqlite_file.group_writer import Refused
from perdure.middleware.persistence.sqlite_file.lasting_cursor import LastingCursor
from perdure.middleware.persistence.stores.sqlite.given_files import files_kept
from perdure.middleware.persistence.stores.sqlite.histories import Histories, HistoryPlan
from perdure.middleware.persistence.stores.sqlite.known_conversations import (
    Intent,
    KnownConversation,
    KnownConversations,
)
from perdure.middleware.persistence.stores.sqlite.placing import Found, Placing, place_taken
from perdure.middleware.persistence.stores.sqlite.written_rows import AnswerRow, PromptRow, as_read, prompt_row
from perdure.middleware.persistence.turn import FinishedTurn, Outcome, Turn, Window

__all__ = ["Place", "TurnWriting"]


class Place(NamedTuple):
    """Where a turn stands."""

    key: int
    """Of its conversation."""
    continuation_id: str
    number: int
    before: HistoryPlan | Sequence[Turn] | None = None
    """The turns before it; None of a fork."""
    replay: bool = False
    outcome: Outcome = Outcome.RUNNING
    expired: bool = False
    forked: bool = False


class TurnWriting:
    def __init__(self, sql: Mapping[str, str], clock: Clock, known: KnownConversations, histories: Histories) -> None:
        self._sql = sql
        self._clock = clock
        self._known = known
        self._histories = histories
        self._placing = Placing(sql, known)
        self._cursor = LastingCursor()

    def begin(
        self, connection: sqlite3.Connection, wanted: Sequence[tuple[PromptRow, Window]]
    ) -> Sequence[Place | Refused]:
        """Each refused with a `TurnConflict`, if its id was used before for another call, or with a `ConversationFull`,
        if the window's last place was given already.
        """
        self._known.forget_if_others_wrote(connection, self._cursor.on(connection))
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
            cursor = self._cursor.on(connection)
            if cursor.execute(self._sql["add_prompt"], values).rowcount:
                to = place_taken(turn, conversation, place, now, at)
                cursor.execute(self._sql["take_place"], to)
                conversation.moved_on(place, to[-1])
                return self._noted(connection, prompt, conversation, place, window)
        try:
            found = self._placing.found(connection, turn, now)
            if found is None:
                return self._begun_anew(connection, prompt, window, now)
        except (TurnConflict, ConversationFull) as error:
            return Refused(error)
        before = None if found.forked else self._before(connection, turn, found, window)
        return Place(
            found.key,
            found.continuation_id,
            found.place,
            before,
            replay=True,
            outcome=found.outcome,
            expired=found.expired,
            forked=found.forked,
        )

    def _finished(self, connection: sqlite3.Connection, answer: AnswerRow) -> FinishedTurn | Refused:
        turn = answer.turn
        intent = self._known.ended(turn.id, turn.principal, turn.digest)
        if intent is not None:
            values = answer.values(intent.key, intent.place)
            try:
                added = self._cursor.on(connection).execute(self._sql["add_answer"], values).rowcount
            except sqlite3.IntegrityError:
                added = 0  # It is not there any more: somebody has deleted it.
            if added:
                return self._ended(connection, answer, intent)
        try:
            return self._finished_where_it_stands(connection, answer)
        except TurnConflict as error:
            return Refused(error)

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
            place = conversation.last_place + 1
            to = place_taken(turn, conversation, place, now, at)
            conversation.moved_on(place, to[-1])
            prompts.append(prompt.values(conversation.key, place))
            moves.append(to)
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
            files=files_kept(connection, self._sql, answer, intent.key, continuation_id, are_new=True)
            if turn.files
            else (),
        )

    # ── what is looked up ────────────────────────────────────────────────────────────────────────────────────────

    def _before(
        self, connection: sqlite3.Connection, turn: Turn, found: Found, window: Window
    ) -> HistoryPlan | Sequence[Turn]:
        """What comes before a turn that was here already: nothing of that is noted."""
        newest = self._histories.newest(connection, found.key, found.place, window.turns)
        name = turn.principal, found.continuation_id
        conversation = KnownConversation(name, found.key, found.place, newest, depth=window.turns)
        return self._histories.plan(connection, conversation, window)

    def _begun_anew(self, connection: sqlite3.Connection, prompt: PromptRow, window: Window, now: datetime) -> Place:
        session = self._placing.placed(connection, prompt, now, window.last_place)
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

    def _finished_where_it_stands(self, connection: sqlite3.Connection, answer: AnswerRow) -> FinishedTurn:
        """If it stands nowhere, it was never begun, and is now."""
        turn, now = answer.turn, self._clock.now()
        found = self._placing.found(connection, turn, now)
        if found is not None:
            key, continuation_id, place = found.key, found.continuation_id, found.place
        else:
            session = self._placing.placed(connection, prompt_row(turn), now, None)
            key, continuation_id, place = session.key, session.continuation_id, session.last_place
            self._known.begun_elsewhere((turn.principal, continuation_id), key, place, session.expires_at)
        added = connection.execute(self._sql["add_answer"], answer.values(key, place)).rowcount > 0
        if added and turn.outcome is Outcome.ANSWERED:
            self._known.answered((turn.principal, continuation_id), key, place, turn.tokens)
        return FinishedTurn(
            continuation_id=continuation_id,
            place=place,
            outcome=found.outcome if found is not None and not added else turn.outcome,
            files=files_kept(connection, self._sql, answer, key, continuation_id, are_new=added),
        )


class _NotAllNew(Exception):
    """Of many turns, that is: who wrote them writes each apart, and finds out which."""
