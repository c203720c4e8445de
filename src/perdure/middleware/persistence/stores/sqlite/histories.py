"""Reads what was said before a turn.

Which turns these are is asked of the database each time; what they say, only of those that are not known here from an
earlier call. Once anybody else has written to the file (another process, an operator by hand), nothing counts as known.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from perdure.middleware.persistence.copied_turns import CopiedTurns
from perdure.middleware.persistence.stores.known_turns import KnownTurn, KnownTurns
from perdure.middleware.persistence.stores.sqlite.rows import turn_of
from perdure.middleware.persistence.turn import Turn, Window

__all__ = ["Histories", "HistoryPlan", "Session"]

_READ_AT_ONCE = 2
"""Turns that are read within the write itself, where their pages are at hand; more would make other writers wait."""

_TEXTS = ("prompt", "prompt_body", "answer", "answer_body", "metadata")


class HistoryPlan(NamedTuple):
    session: "Session"
    places: list[int]
    """Oldest first."""
    known: Mapping[int, KnownTurn]
    generation: int
    rows: Mapping[int, sqlite3.Row]
    """Of the turns that are not known, if these are few."""

    def __bool__(self) -> bool:
        return bool(self.places)


class Session(NamedTuple):
    """Which conversation. Not the key alone: the database gives that of a deleted one away again."""

    key: int
    principal: str
    continuation_id: str
    created_at: str


class Histories:
    """`reading` gives a connection to read by, whatever has been committed."""

    def __init__(
        self, sql: Mapping[str, str], reading: Callable[[], AbstractContextManager[sqlite3.Connection]]
    ) -> None:
        self._sql = sql
        self._reading = reading
        self._known: KnownTurns[Session] = KnownTurns()
        self._as_of: tuple[sqlite3.Connection | None, int] = (None, 0)

    def plan(self, connection: sqlite3.Connection, session: Session, place: int, window: Window) -> HistoryPlan:
        """Which turns stand before `place` within the budget, in the transaction that gives a turn that place."""
        wanted = {"session_id": session.key, "place": place, "turns": window.turns}
        places: list[int] = []
        left = window.tokens
        for before, tokens in connection.execute(self._sql["window"], wanted).fetchall():
            left -= tokens
            if left < 0:
                break
            places.append(before)
        places.reverse()
        self._forget_if_others_wrote(connection)
        known, generation = self._known.of(session), self._known.generation
        missing = [before for before in places if before not in known]
        rows = self._rows(connection, session, missing) if len(missing) <= _READ_AT_ONCE else {}
        return HistoryPlan(session, places, known, generation, rows)

    def carried_out(self, plan: HistoryPlan) -> Sequence[Turn]:
        """
        Raises:
            ValueError, LookupError, TypeError, AttributeError: A row holds what perdure did not write.
        """
        session, known, rows = plan.session, plan.known, plan.rows
        missing = [place for place in plan.places if place not in known and place not in rows]
        if missing:
            with self._reading() as reader:
                rows = self._rows(reader, session, missing)
        window: dict[int, KnownTurn] = {}
        for place in plan.places:
            if place in known:
                window[place] = known[place]
            elif (row := rows.get(place)) is not None:  # else it was deleted meanwhile
                turn = turn_of(row, session.principal, session.continuation_id)
                window[place] = KnownTurn(turn, _characters(row))
        if rows:
            self._known.keep(session, window, plan.generation)
        return CopiedTurns([known.turn for known in window.values()])

    def forget_all(self) -> None:
        self._known.forget_all()

    def _forget_if_others_wrote(self, connection: sqlite3.Connection) -> None:
        # https://sqlite.org/pragma.html#pragma_data_version: it stays as it is for what this connection commits.
        as_of = connection, connection.execute("PRAGMA data_version").fetchone()[0]
        if as_of != self._as_of:
            self._known.forget_all()
            self._as_of = as_of

    def _rows(self, connection: sqlite3.Connection, session: Session, places: Sequence[int]) -> dict[int, sqlite3.Row]:
        found = {}
        for place in places:
            row = connection.execute(self._sql["turn_at"], {"session_id": session.key, "place": place}).fetchone()
            if row is not None:
                found[place] = row
        return found


def _characters(row: sqlite3.Row) -> int:
    return sum(len(row[name] or "") for name in _TEXTS)
