"""Finds where a turn stands in the database, or gives it a place there: the long way, which looks at what there is."""

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from perdure.errors import ConversationFull, TurnConflict
from perdure.middleware.persistence.stores.sqlite.known_conversations import KnownConversation, KnownConversations
from perdure.middleware.persistence.stores.sqlite.written_rows import PromptRow
from perdure.middleware.persistence.turn import Outcome, Turn

__all__ = ["Found", "Placing", "Session", "place_taken"]


class Found(NamedTuple):
    """A turn that is here already."""

    key: int
    """Of its conversation."""
    continuation_id: str
    place: int
    outcome: Outcome
    expired: bool
    forked: bool


class Session(NamedTuple):
    """A conversation as it stands in the database."""

    key: int
    continuation_id: str
    last_place: int = 0
    minted: bool = False
    expires_at: str | None = None
    forked: bool = False


class Placing:
    def __init__(self, sql: Mapping[str, str], known: KnownConversations) -> None:
        self._sql = sql
        self._known = known

    def found(self, connection: sqlite3.Connection, turn: Turn, now: datetime) -> Found | None:
        """Where the turn stands already.

        Raises:
            TurnConflict: It is another.
        """
        found = connection.execute(self._sql["find_turn"], (turn.id,)).fetchone()
        if found is None:
            return None
        if found["user_id"] != turn.principal or found["digest"] != turn.digest:
            raise TurnConflict(f"The turn id {turn.id} was used before for another call.")
        return Found(
            found["id"],
            # One that was set aside has no name of its own any more, but the caller knows it by the old one.
            found["continuation_id"] or turn.continuation_id,
            found["turn_seq"],
            outcome=Outcome(found["outcome"] or Outcome.RUNNING),
            expired=found["expires_at"] is not None and found["expires_at"] <= now.isoformat(),
            forked=bool(found["forked"]),
        )

    def placed(self, connection: sqlite3.Connection, prompt: PromptRow, now: datetime, last: int | None) -> Session:
        """The conversation of a new turn, which has its last place now.

        Raises:
            ConversationFull: Place `last` was given already.
        """
        turn, at = prompt.turn, now.isoformat()
        session = self._session(connection, turn, at)
        place = session.last_place + 1
        if last is not None and place > last:
            raise ConversationFull(session.continuation_id, session.last_place)
        to = place_taken(turn, session, place, now, at)
        connection.execute(self._sql["take_place"], to)
        connection.execute(self._sql["add_prompt"], prompt.values(session.key, place))
        return session._replace(last_place=place, expires_at=to[-1] or session.expires_at)

    def _session(self, connection: sqlite3.Connection, turn: Turn, now: str) -> Session:
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
        return Session(added.lastrowid or 0, continuation_id, minted=minted)


def place_taken(
    turn: Turn, conversation: "KnownConversation | Session", place: int, now: datetime, at: str
) -> tuple[int, int, str, str | None]:
    """What `take_place` is given; its last is the conversation's new end, if it has one."""
    return conversation.key, place, at, (now + turn.expire_after).isoformat() if turn.expire_after else None


def _session_of(row: sqlite3.Row) -> Session:
    return Session(
        row["id"],
        row["continuation_id"],
        row["last_place"],
        bool(row["minted"]),
        row["expires_at"],
        bool(row["forked"]),
    )
