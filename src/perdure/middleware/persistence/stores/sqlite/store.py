"""Turns in SQLite. The statements are in `sql/sqlite/queries.sql`."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.ports import Clock, SystemClock
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.sqlite_file.database import Connect, Database, explained
from perdure.middleware.persistence.sqlite_file.group_writer import GroupWriter, Refused
from perdure.middleware.persistence.stores.faults import OF_ONE_TURN, decoded, encoded
from perdure.middleware.persistence.stores.search_upkeep import SearchUpkeep
from perdure.middleware.persistence.stores.sqlite.forks import add_fork, history_of, turns_of
from perdure.middleware.persistence.stores.sqlite.histories import Histories
from perdure.middleware.persistence.stores.sqlite.kept_index import KeptSearchIndex
from perdure.middleware.persistence.stores.sqlite.known_conversations import KnownConversations
from perdure.middleware.persistence.stores.sqlite.rows import file_of, summary_of, turn_of
from perdure.middleware.persistence.stores.sqlite.search_index import SearchIndex
from perdure.middleware.persistence.stores.sqlite.turn_writing import Place, TurnWriting
from perdure.middleware.persistence.stores.sqlite.upkeep import SqliteUpkeep
from perdure.middleware.persistence.stores.sqlite.written_rows import AnswerRow, answer_row, prompt_row
from perdure.middleware.persistence.turn import BegunTurn, ConversationSummary, FinishedTurn, StoredFile, Turn, Window

__all__ = ["SqliteStore"]

T = TypeVar("T")

_LAST_PLACE = (1 << 31) - 1


class SqliteStore(SqliteUpkeep):
    """Opens nothing before the first call, so that a store that cannot be opened never keeps a server from starting."""

    blocking = True
    most_together = 64

    def __init__(self, path: Path, clock: Clock | None = None, *, connect: Connect | None = None) -> None:
        self.path = path.absolute()
        self._clock = clock or SystemClock()
        self._sql = named_queries("sqlite/queries.sql")
        self._database = Database(self.path, self._clock, connect=connect)
        self._known = KnownConversations()
        self._writer = GroupWriter(self._database.writing, taken_back=self._known.transaction_taken_back)
        self._histories = Histories(self._sql, self._known, self._database.reading, self.path)
        self._turns = TurnWriting(self._sql, self._clock, self._known, self._histories)
        self._index = SearchIndex(self.path)
        self._index_upkeep = SearchUpkeep(KeptSearchIndex(self._index, self._database.gate))

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        with _Keeping(self._database, turn):
            wanted = prompt_row(turn), window
            place = self._writer.write_together(wanted, self._turns.begin, durable=False)
            return self._begun(place, turn, window)

    def begin_together(self, wanted: Sequence[tuple[Turn, Window]]) -> Sequence[BegunTurn | None]:
        with self._database.gate.inside(), explained(self.path):
            rows = [(_written_down(prompt_row, turn), window) for turn, window in wanted]
            ready = [(row, window) for row, window in rows if row is not None]
            places = iter(self._writer.write_several(ready, self._turns.begin, durable=False) if ready else ())
            begun: list[BegunTurn | None] = []
            for (row, _), (turn, window) in zip(rows, wanted, strict=True):
                place = next(places) if row is not None else None
                if isinstance(place, Refused) or place is None:
                    begun.append(None)
                    continue
                try:
                    begun.append(self._begun(place, turn, window))
                except (StoreUnavailable, sqlite3.Error, OSError):
                    begun.append(None)  # a row that nobody can read: `begin` says so, to its own caller alone
            return begun

    def _begun(self, place: Place, turn: Turn, window: Window) -> BegunTurn:
        history: Sequence[Turn] = ()
        if place.expired:
            pass
        elif place.forked:
            history = self._history_of_fork(place, turn, window)
        elif place.before is not None:
            history = self._histories.carried_out(place.before)
        return BegunTurn(
            continuation_id=place.continuation_id,
            place=place.number,
            replay=place.replay,
            outcome=place.outcome,
            history=history,
        )

    def _history_of_fork(self, place: Place, turn: Turn, window: Window) -> Sequence[Turn]:
        with self._database.reading() as reader:
            rows = history_of(reader, place.key, place.number, window)
        with decoded(self.path):
            return [turn_of(row, turn.principal, place.continuation_id) for row in rows]

    def finish(self, turn: Turn) -> FinishedTurn:
        with _Keeping(self._database, turn):
            answer = answer_row(turn, self._clock)
            finished = self._writer.write_together(answer, self._turns.finish, durable=True)
        self._index_upkeep.count_turn()
        return finished

    def finish_together(self, turns: Sequence[Turn]) -> Sequence[FinishedTurn | None]:
        with self._database.gate.inside(), explained(self.path):
            rows = [_written_down(self._answer_row, turn) for turn in turns]
            ready = [row for row in rows if row is not None]
            ended = iter(self._writer.write_several(ready, self._turns.finish, durable=True) if ready else ())
            finished = [next(ended) if row is not None else None for row in rows]
        results = [None if isinstance(end, Refused) else end for end in finished]
        for result in results:
            if result is not None:
                self._index_upkeep.count_turn()
        return results

    def _answer_row(self, turn: Turn) -> AnswerRow:
        return answer_row(turn, self._clock)

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        wanted = [
            {"user_id": principal, "turn_id": turn_id, "lease_until": lease_until.isoformat()}
            for principal, turn_ids in turns.items()
            for turn_id in turn_ids
        ]

        def renew(connection: sqlite3.Connection) -> None:
            connection.executemany(self._sql["renew_turn"], wanted)
            self._known.renewed([turn["turn_id"] for turn in wanted])

        with self._database.gate.inside(), explained(self.path):
            self._writer.write(renew, durable=False)

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
        def fork(connection: sqlite3.Connection) -> None:
            self._known.forget_all()  # It may set a conversation aside.
            add_fork(
                connection,
                self._sql["set_aside"],
                principal,
                continuation_id,
                place,
                new_id,
                minted=minted,
                now=self._now(),
            )

        with self._database.gate.inside(), explained(self.path):
            self._writer.write(fork, durable=True)
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


def _written_down(row: Callable[[Turn], T], turn: Turn) -> T | None:
    """None if it holds what cannot be written down: who keeps it by itself is told."""
    try:
        return row(turn)
    except OF_ONE_TURN:
        return None


class _Keeping:
    """`inside`, `explained` and `encoded` in one, since they stand around the beginning and the end of every turn."""

    __slots__ = ("_database", "_turn")

    def __init__(self, database: Database, turn: Turn) -> None:
        self._database = database
        self._turn = turn

    def __enter__(self) -> None:
        self._database.gate.enter(self)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._database.gate.leave(self)
        if error is not None:
            with explained(self._database.path), encoded(self._turn.id):
                raise error
