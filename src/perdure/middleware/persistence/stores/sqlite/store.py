"""Turns in SQLite. The statements are in `sql/sqlite/queries.sql`."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from perdure.errors import ConversationFull, TurnConflict
from perdure.middleware.persistence.ports import Clock, SystemClock
from perdure.middleware.persistence.serialization import encode_answer, encode_prompt, exact_json
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.sqlite_file.database import Connect, Database, explained
from perdure.middleware.persistence.sqlite_file.group_writer import GroupWriter
from perdure.middleware.persistence.stores.faults import decoded, encoded
from perdure.middleware.persistence.stores.sqlite.forks import add_fork, history_of, turns_of
from perdure.middleware.persistence.stores.sqlite.histories import Histories, HistoryPlan, Session
from perdure.middleware.persistence.stores.sqlite.rows import file_of, summary_of, turn_of
from perdure.middleware.persistence.stores.sqlite.search_index import SearchIndex
from perdure.middleware.persistence.stores.sqlite.search_upkeep import SearchUpkeep
from perdure.middleware.persistence.stores.sqlite.upkeep import SqliteUpkeep
from perdure.middleware.persistence.turn import (
    Answer,
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    Outcome,
    StoredFile,
    Turn,
    Window,
)

__all__ = ["SqliteStore"]

T = TypeVar("T")

_LAST_PLACE = (1 << 31) - 1


class _Place(NamedTuple):
    """Where a turn stands."""

    session: Session
    continuation_id: str
    number: int
    replay: bool = False
    outcome: Outcome = Outcome.RUNNING
    expired: bool = False
    forked: bool = False


class SqliteStore(SqliteUpkeep):
    """Opens nothing before the first call, so that a store that cannot be opened never keeps a server from starting."""

    blocking = True

    def __init__(self, path: Path, clock: Clock | None = None, *, connect: Connect | None = None) -> None:
        self.path = path.absolute()
        self._clock = clock or SystemClock()
        self._sql = named_queries("sqlite/queries.sql")
        self._database = Database(self.path, self._clock, connect=connect)
        self._writer = GroupWriter(self._database.writing)
        self._histories = Histories(self._sql, self._database.reading)
        self._index = SearchIndex(self.path)
        self._index_upkeep = SearchUpkeep(self._index, self._database.gate)

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        def work(connection: sqlite3.Connection) -> tuple[_Place, HistoryPlan | None]:
            place = self._begin(connection, turn, window.last_place)
            if place.forked:
                return place, None
            return place, self._histories.plan(connection, place.session, place.number, window)

        with self._database.gate.inside(), explained(self.path):
            with encoded(turn.id):
                place, plan = self._writer.write(work, durable=False)
            history: Sequence[Turn] = ()
            if place.forked and not place.expired:
                history = self._history_of_fork(place, window)
            elif plan and not place.expired:
                with decoded(self.path):
                    history = self._histories.carried_out(plan)
        return BegunTurn(
            continuation_id=place.continuation_id,
            place=place.number,
            replay=place.replay,
            outcome=place.outcome,
            history=history,
        )

    def _history_of_fork(self, place: "_Place", window: Window) -> Sequence[Turn]:
        with self._database.reading() as reader:
            rows = history_of(reader, place.session.key, place.number, window)
        with decoded(self.path):
            return [turn_of(row, place.session.principal, place.continuation_id) for row in rows]

    def finish(self, turn: Turn) -> FinishedTurn:
        with self._database.gate.inside(), explained(self.path), encoded(turn.id):
            finished = self._writer.write(lambda connection: self._finish(connection, turn), durable=True)
        self._index_upkeep.count_turn()
        return finished

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        wanted = [
            {"user_id": principal, "turn_id": turn_id, "lease_until": lease_until.isoformat()}
            for principal, turn_ids in turns.items()
            for turn_id in turn_ids
        ]
        with self._database.gate.inside(), explained(self.path):
            self._writer.write(
                lambda connection: connection.executemany(self._sql["renew_turn"], wanted), durable=False
            )

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        wanted: dict[str, Any] = {
            "user_id": principal,
            "continuation_id": continuation_id,
            "after": min(max(after, 0), _LAST_PLACE),
            "limit": limit,
            "now": self._now(),
        }
        with self._database.gate.inside(), explained(self.path):
            if not self._database.exists():
                return []  # Nothing was ever written here, and reading makes no database.
            with self._database.reading() as reader:
                rows = turns_of(reader, principal, continuation_id, self._now(), after=wanted["after"], limit=limit)
                if rows is None:
                    rows = reader.execute(self._sql["read_turns"], wanted).fetchall()
            with decoded(self.path):
                return [turn_of(row, principal, continuation_id) for row in rows]

    def conversations(
        self,
        principal: str | None = None,
        continuation_id: str | None = None,
        *,
        before: tuple[datetime, str, str] | None = None,
        limit: int = 100,
    ) -> list[ConversationSummary]:
        before_at, before_user, before_id = (before[0].isoformat(), *before[1:]) if before else (None, None, None)
        wanted = {
            "user_id": principal,
            "continuation_id": continuation_id,
            "before_at": before_at,
            "before_user": before_user,
            "before_id": before_id,
            "limit": limit,
            "now": self._now(),
        }
        return self._read(self._sql["list_conversations"], wanted, lambda rows: [summary_of(row) for row in rows])

    def fork(
        self, principal: str, continuation_id: str, place: int, new_id: str, *, minted: bool = False
    ) -> ConversationSummary:
        with self._database.gate.inside(), explained(self.path):
            self._writer.write(
                lambda connection: add_fork(
                    connection,
                    self._sql["set_aside"],
                    principal,
                    continuation_id,
                    place,
                    new_id,
                    minted=minted,
                    now=self._now(),
                ),
                durable=True,
            )
        return self.conversations(principal, new_id)[0]

    def file(self, principal: str, key: str) -> StoredFile | None:
        found = self._read(
            self._sql["find_file"],
            {"user_id": principal, "key": key, "now": self._now()},
            lambda rows: [file_of(row) for row in rows],
        )
        return found[0] if found else None

    def files(
        self, principal: str, continuation_id: str | None = None, name: str | None = None, *, limit: int = 1000
    ) -> list[StoredFile]:
        wanted = {
            "user_id": principal,
            "continuation_id": continuation_id,
            "name": name,
            "limit": limit,
            "now": self._now(),
        }
        return self._read(self._sql["list_files"], wanted, lambda rows: [file_of(row) for row in rows])

    def close(self) -> None:
        self._index_upkeep.stop()
        with self._database.gate.inside():
            self._database.close()

    def _read(
        self, query: str, wanted: Mapping[str, Any], made_of: Callable[[Iterable[sqlite3.Row]], list[T]]
    ) -> list[T]:
        with self._database.gate.inside(), explained(self.path):
            if not self._database.exists():
                return []  # Nothing was ever written here, and reading makes no database.
            with self._database.reading() as reader:
                rows = reader.execute(query, wanted).fetchall()
            with decoded(self.path):
                return made_of(rows)

    def _begin(self, connection: sqlite3.Connection, turn: Turn, last: int | None = None) -> "_Place":
        """Find the turn's place or give it one, up to `last`.

        Raises:
            ConversationFull: Place `last` was given already.
        """
        now = self._clock.now()
        found = connection.execute(self._sql["find_turn"], {"turn_id": turn.id}).fetchone()
        if found is not None:
            if found["user_id"] != turn.principal or found["digest"] != turn.digest:
                raise TurnConflict(f"The turn id {turn.id} was used before for another call.")
            return _Place(
                session=Session(found["id"], found["user_id"], found["continuation_id"] or "", found["created_at"]),
                # One that was set aside has no name of its own any more, but the caller knows it by the old one.
                continuation_id=found["continuation_id"] or turn.continuation_id,
                number=found["turn_seq"],
                replay=True,
                outcome=Outcome(found["outcome"] or Outcome.RUNNING),
                expired=found["expires_at"] is not None and found["expires_at"] <= now.isoformat(),
                forked=bool(found["forked"]),
            )
        at = now.isoformat()
        session, last_place, forked = self._session(connection, turn, at)
        place = last_place + 1
        if last is not None and place > last:
            raise ConversationFull(session.continuation_id, last_place)
        connection.execute(
            self._sql["take_place"],
            {
                "id": session.key,
                "place": place,
                "now": at,
                "expires_at": (now + turn.expire_after).isoformat() if turn.expire_after else None,
            },
        )
        prompt = encode_prompt(turn.prompt, turn.arguments)
        connection.execute(
            self._sql["add_prompt"],
            {
                "session_id": session.key,
                "place": place,
                "turn_id": turn.id,
                "content": prompt.content,
                "body": prompt.body,
                "tool": turn.tool,
                "digest": turn.digest,
                "after_place": turn.after_place,
                "deferred": turn.deferred,
                "lease_until": turn.lease_until.isoformat(),
                "created_at": turn.started_at.isoformat(),
                "metadata": exact_json(turn.metadata) if turn.metadata else None,
            },
        )
        return _Place(session=session, continuation_id=session.continuation_id, number=place, forked=forked)

    def _session(self, connection: sqlite3.Connection, turn: Turn, now: str) -> tuple[Session, int, bool]:
        """Find or make the conversation. Returns its last place as well, and whether it is a fork."""
        wanted = {"user_id": turn.principal, "continuation_id": turn.continuation_id, "adopt": turn.adopt, "now": now}
        session = connection.execute(self._sql["find_session"], wanted).fetchone()
        if session is not None:
            return _found(session, turn)
        adopted = turn.adopt or turn.minted
        continuation_id = turn.continuation_id if adopted else turn.fresh_id
        if not adopted:
            session = connection.execute(
                self._sql["find_session"], {**wanted, "continuation_id": continuation_id}
            ).fetchone()
            if session is not None:
                return _found(session, turn)
        connection.execute(self._sql["set_aside"], {**wanted, "continuation_id": continuation_id})
        added = connection.execute(
            self._sql["add_session"],
            {
                "user_id": turn.principal,
                "continuation_id": continuation_id,
                "minted": turn.minted or not adopted,
                "now": now,
            },
        )
        return Session(added.lastrowid or 0, turn.principal, continuation_id, now), 0, False

    def _finish(self, connection: sqlite3.Connection, turn: Turn) -> FinishedTurn:
        begun = self._begin(connection, turn)
        answer = encode_answer(turn.answer or Answer())
        added = connection.execute(
            self._sql["add_answer"],
            {
                "session_id": begun.session.key,
                "place": begun.number,
                "turn_id": turn.id,
                "content": answer.content,
                "body": answer.body,
                "outcome": turn.outcome.value,
                "tokens": turn.tokens,
                "created_at": (turn.ended_at or self._clock.now()).isoformat(),
            },
        )
        if added.rowcount:
            self._add_files(connection, turn, begun.session.key)
        rows: Iterable[sqlite3.Row] = ()
        if turn.files:
            of_turn = {
                "turn_id": turn.id,
                "session_id": begun.session.key,
                "continuation_id": begun.continuation_id,
            }
            rows = connection.execute(self._sql["files_of_turn"], of_turn)
        return FinishedTurn(
            continuation_id=begun.continuation_id,
            place=begun.number,
            outcome=turn.outcome if added.rowcount else begun.outcome,
            files=tuple(file_of(row) for row in rows),
        )

    def _add_files(self, connection: sqlite3.Connection, turn: Turn, session_id: int) -> None:
        for file in turn.files:
            newest = connection.execute(
                self._sql["newest_version"], {"session_id": session_id, "name": file.name}
            ).fetchone()
            version, content = (newest["version"], newest["sha256"]) if newest else (0, None)
            connection.execute(
                self._sql["add_file"],
                {
                    "session_id": session_id,
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


def _found(session: sqlite3.Row, turn: Turn) -> tuple[Session, int, bool]:
    return (
        Session(session["id"], turn.principal, session["continuation_id"], session["created_at"]),
        session["last_place"],
        bool(session["forked"]),
    )
