"""Searching, removing and counting what SQLite keeps. The statements are in `sql/sqlite/upkeep.sql`."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.question import Question
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.sqlite_file.database import Database, explained
from perdure.middleware.persistence.sqlite_file.group_writer import GroupWriter
from perdure.middleware.persistence.stores.faults import decoded
from perdure.middleware.persistence.stores.sqlite.forks import needed_of, parent_that_is_gone, trim
from perdure.middleware.persistence.stores.sqlite.known_conversations import KnownConversations
from perdure.middleware.persistence.stores.sqlite.search_index import SearchIndex
from perdure.middleware.persistence.upkeep import FileName, Hit, HitPosition, Removed, Statistics

__all__ = ["SqliteUpkeep"]

T = TypeVar("T")

_MESSAGES_AT_ONCE = 200
"""In one transaction, so that whoever keeps a turn meanwhile waits for no more than that."""


class SqliteUpkeep:
    path: Path
    _clock: Clock
    _database: Database
    _writer: GroupWriter
    _known: KnownConversations
    _index: SearchIndex

    def search(self, question: Question, *, before: HitPosition | None = None, limit: int = 20) -> list[Hit]:
        with self._database.gate.inside(), explained(self.path):
            if not self._database.exists():
                return []
            with self._database.reading():
                pass  # which brings the schema up to date
            with decoded(self.path):
                return self._index.find(question, before, limit, self._clock.now())

    def delete(self, principal: str, continuation_id: str) -> Removed:
        return self._remove("named", user_id=principal, continuation_id=continuation_id)

    def purge(self, *, limit: int = 100, dry_run: bool = False) -> Removed:
        if not dry_run:
            return self._remove("expired", limit=limit)
        ids = [row["id"] for row in self._rows("expired", {"now": self._now(), "limit": limit})]
        with self._database.gate.inside(), explained(self.path):
            if not ids:
                return Removed()
            with self._database.reading() as reader:
                return _about(reader, ids)

    def forget(self, principal: str, *, limit: int = 100) -> Removed:
        return self._remove("owned", user_id=principal, limit=limit)

    def statistics(self, principal: str | None = None) -> Statistics:
        wanted = {"user_id": principal, "now": self._now()}
        found = self._rows("count_conversations", wanted)
        if not found:
            return Statistics(outcomes={})
        (conversations,), (files,) = found, self._rows("count_files", wanted)
        outcomes = {row["outcome"]: row["turns"] for row in self._rows("count_outcomes", wanted)}
        return Statistics(
            users=conversations["users"],
            conversations=conversations["conversations"],
            turns=sum(outcomes.values()),
            outcomes=outcomes,
            files=files["files"],
            file_bytes=files["bytes"],
            expired=conversations["expired"],
            oldest=datetime.fromisoformat(conversations["oldest"]) if conversations["oldest"] else None,
            newest=datetime.fromisoformat(conversations["newest"]) if conversations["newest"] else None,
        )

    def _remove(
        self, which: str, *, user_id: str | None = None, continuation_id: str | None = None, limit: int = 1
    ) -> Removed:
        of_these = {"user_id": user_id, "continuation_id": continuation_id, "now": self._now()}
        ids = [row["id"] for row in self._rows(which, {**of_these, "limit": limit})]
        conversations, turns, files = 0, 0, list[FileName]()
        with self._database.gate.inside(), explained(self.path):
            for id_ in ids:
                removed = self._remove_one({**of_these, "id": id_})
                conversations += removed.conversations
                turns += removed.turns
                files += removed.files
            if ids:
                self._index.discard()
        return Removed(conversations=conversations, turns=turns, files=tuple(files))

    def _remove_one(self, this: Mapping[str, Any]) -> Removed:
        """First its name, then its messages some at a time, then the rest: what is interrupted, the next purge ends."""
        id_ = this["id"]
        if not self._write(lambda connection: connection.execute(_SQL["end_now"], this).rowcount):
            return Removed()  # Somebody else was quicker.
        needed = self._write(lambda connection: needed_of(connection, id_))
        some = {"id": id_, "limit": _MESSAGES_AT_ONCE, "after": needed}
        while self._write(lambda connection: connection.execute(_SQL["remove_messages"], some).rowcount):
            pass

        def rest(connection: sqlite3.Connection) -> tuple[Removed, int | None]:
            removed = _about(connection, [id_])
            parent = parent_that_is_gone(connection, id_)
            if needed := needed_of(connection, id_):
                trim(connection, id_, needed)
                return removed, None
            if not connection.execute(_SQL["remove_session"], {"id": id_}).rowcount:
                return Removed(), None
            for rows in ("remove_messages_left", "remove_files", "remove_fork"):
                connection.execute(_SQL[rows], {"id": id_})
            return removed, parent if parent is not None and not needed_of(connection, parent) else None

        removed, parent = self._write(rest, alone=True)
        if parent is None:
            return removed
        of_parent = self._remove_one({**this, "id": parent, "user_id": None, "continuation_id": None})
        return Removed(
            conversations=removed.conversations,
            turns=removed.turns + of_parent.turns,
            files=removed.files + of_parent.files,
        )

    def _write(self, work: Callable[[sqlite3.Connection], T], *, alone: bool = False) -> T:
        def thoroughly(connection: sqlite3.Connection) -> T:
            self._known.forget_all()  # What is gone is gone from the memory, too.
            connection.execute("PRAGMA secure_delete = ON")  # What is gone leaves nothing in the free pages.
            try:
                return work(connection)
            finally:
                connection.execute("PRAGMA secure_delete = OFF")

        return self._writer.write_alone(thoroughly) if alone else self._writer.write(thoroughly, durable=True)

    def _rows(self, query: str, wanted: Mapping[str, Any]) -> list[sqlite3.Row]:
        with self._database.gate.inside(), explained(self.path):
            if not self._database.exists():
                return []
            with self._database.reading() as reader:
                return reader.execute(_SQL[query], wanted).fetchall()

    def _now(self) -> str:
        return self._clock.now().isoformat()


_SQL = named_queries("sqlite/upkeep.sql")


def _about(connection: sqlite3.Connection, ids: Sequence[int]) -> Removed:
    given = {"ids": json.dumps(list(ids))}
    counted = connection.execute(_SQL["turns_of"], given).fetchone()
    files = connection.execute(_SQL["only_named_by"], given).fetchall()
    return Removed(
        conversations=counted["conversations"],
        turns=counted["turns"],
        files=tuple(FileName(row["bucket"], row["key"], bool(row["shared"])) for row in files),
    )
