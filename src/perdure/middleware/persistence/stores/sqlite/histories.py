"""Reads what was said before a turn: of what stands in the window only that which is not known here already."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from perdure.middleware.persistence.copied_turns import CopiedTurns
from perdure.middleware.persistence.stores.faults import decoded
from perdure.middleware.persistence.stores.known_turns import OF_A_TURN, KnownTurn
from perdure.middleware.persistence.stores.sqlite.known_conversations import KnownConversation, KnownConversations
from perdure.middleware.persistence.stores.sqlite.rows import turn_of
from perdure.middleware.persistence.turn import Turn, Window

__all__ = ["Histories", "HistoryPlan"]

_READ_AT_ONCE = 2
"""Turns that are read within the write itself, where their pages are at hand; more would make other writers wait."""

_TEXTS = (2, 3, 10, 11, 12)
"""Where a row has prompt, answer, the exact form of each, and metadata."""


class HistoryPlan(NamedTuple):
    """Which turns are a history."""

    conversation: KnownConversation
    known: Sequence[Turn] | None
    """The turns, oldest first; None where some are to be read."""
    places: Sequence[int]
    """In the same order, if some are to be read; and so"""
    turns: Sequence[Turn | None]
    """None of those."""
    rows: Mapping[int, sqlite3.Row]
    """By place, of the turns that are not known, if these are few."""


class Histories:
    """`reading` gives a connection to read by, whatever has been committed."""

    def __init__(
        self,
        sql: Mapping[str, str],
        known: KnownConversations,
        reading: Callable[[], AbstractContextManager[sqlite3.Connection]],
        where: object,
    ) -> None:
        """`where` names the database, for who reads what is wrong with it."""
        self._where = where
        self._sql = sql
        self._known = known
        self._reading = reading

    def newest(self, connection: sqlite3.Connection, key: int, place: int, turns: int) -> dict[int, int]:
        """What each of the newest answered turns before `place` costs, by place, oldest first."""
        if place == 1:
            return {}
        found = connection.execute(self._sql["window"], {"session_id": key, "place": place, "turns": turns}).fetchall()
        return {row[0]: row[1] for row in reversed(found)}

    def plan(self, connection: sqlite3.Connection, conversation: KnownConversation, window: Window) -> HistoryPlan:
        """Which turns come before the next one, in the transaction that gives it its place."""
        known, places, turns = conversation.window(window)
        rows: Mapping[int, sqlite3.Row] = {}
        if known is None:
            missing = _missing(places, turns)
            if len(missing) <= _READ_AT_ONCE:
                rows = self._rows(connection, conversation, missing)
        return HistoryPlan(conversation, known, places, turns, rows)

    def carried_out(self, plan: HistoryPlan) -> Sequence[Turn]:
        """
        Raises:
            StoreUnavailable: A row holds what perdure did not write.
        """
        turns = plan.known if plan.known is not None else self._read(plan)
        return CopiedTurns(turns) if turns else ()

    def _read(self, plan: HistoryPlan) -> list[Turn]:
        """Without what was deleted meanwhile."""
        rows, conversation = plan.rows, plan.conversation
        if not rows:
            with self._reading() as reader:
                rows = self._rows(reader, conversation, _missing(plan.places, plan.turns))
        with decoded(self._where):
            read = {place: KnownTurn(turn_of(row, *conversation.name), _characters(row)) for place, row in rows.items()}
        self._known.learn(conversation, read)
        turns = dict(zip(plan.places, plan.turns, strict=True)) | {place: known.turn for place, known in read.items()}
        return list(filter(None, turns.values()))

    def _rows(
        self, connection: sqlite3.Connection, conversation: KnownConversation, places: Sequence[int]
    ) -> dict[int, sqlite3.Row]:
        """By place, those that are there. Another conversation may have the number by now: its name tells."""
        principal, continuation_id = conversation.name
        of_it = {"session_id": conversation.key, "user_id": principal, "continuation_id": continuation_id}
        first, last = places[0], places[-1]
        # Mostly they stand side by side; not where many turns between them have failed, or were never answered.
        spans = [(first, last)] if last - first < 2 * len(places) else [(place, place) for place in places]
        rows: list[sqlite3.Row] = []
        for first, last in spans:
            wanted = {**of_it, "first": first, "last": last}
            rows += connection.execute(self._sql["turns_between"], wanted)
        wanted_places = set(places)
        return {row["turn_seq"]: row for row in rows if row["turn_seq"] in wanted_places}


def _characters(row: sqlite3.Row) -> int:
    return OF_A_TURN + sum(len(row[at] or "") for at in _TEXTS)


def _missing(places: Sequence[int], turns: Sequence[Turn | None]) -> list[int]:
    return [place for place, turn in zip(places, turns, strict=True) if turn is None]
