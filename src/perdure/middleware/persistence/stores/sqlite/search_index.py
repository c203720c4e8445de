"""Full text search beside a database: an index of words in a file of its own.

Whoever searches brings it up to date, so that keeping turns costs nothing for it, and needs no SQLite that has FTS5.
The file holds words and no texts, and can be deleted at any time: the next search makes it again. The statements are
in `sql/sqlite/search_index.sql`.
"""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.excerpts import SEARCHED, excerpt_of
from perdure.middleware.persistence.question import Question, Term
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.sqlite_file.database import is_damage
from perdure.middleware.persistence.stores.sqlite.search_file import OpenedSearchFile, SearchFile, SearchFileReplaced
from perdure.middleware.persistence.turn import Outcome
from perdure.middleware.persistence.upkeep import Hit, HitPosition

__all__ = ["SearchIndex"]

_VERSION = 2
"""Of the tables in it. One of another is made again."""

_ATTEMPTS = 3
_ALL = 1 << 62

_MAKE = ("make_words", "faster", "make_turns", "make_unanswered", "make_conversations")
_ADD = ("make_batch", "fill_batch", "add_late_words", "add_new_words", "note_late_outcomes", "add_new_turns")


class SearchIndex:
    """Of the database at `path`, which it only reads."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.stem}-search.db")
        self._of = path
        self._file = SearchFile(self.path, path)
        self._sql = named_queries("sqlite/search_index.sql")

    def find(self, question: Question, before: HitPosition | None, limit: int, now: datetime) -> list[Hit]:
        """
        Raises:
            StoreUnavailable: This Python's SQLite cannot search, or another program changes the database all the time.
            sqlite3.Error: A file cannot be used.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with self._file.opened() as index:
                    if not self._is_stale(index):
                        self._add(index, _ALL)
                        return self._find(index.connection, question, before, limit, now)
            except SearchFileReplaced:
                continue
            except sqlite3.DatabaseError as error:
                if "fts5" in str(error):
                    raise StoreUnavailable(
                        f"The SQLite of this Python ({sqlite3.sqlite_version}) was built without FTS5, which searches.",
                        remedy="use a Python whose SQLite has it, such as those of python.org, Debian or uv.",
                    ) from error
                if attempt == _ATTEMPTS - 1 or not is_damage(error):
                    raise
            self.discard()
        raise StoreUnavailable(
            f"Another program changes the database {self._of} while it is searched.",
            remedy="search again once a backup has been put back, or the program has ended.",
        )

    def is_wanted(self) -> bool:
        """Whether anybody has ever searched here."""
        return self._file.inode() is not None

    def add(self, turns: int, *, wait_seconds: float) -> bool:
        """Add at most so many that are not in it yet. Whether anything was added: there may be more.

        Raises:
            SearchFileReplaced: Somebody emptied it meanwhile.
            sqlite3.Error: A file cannot be used, or others write to the index for `wait_seconds`.
        """
        with self._file.opened(wait_seconds=wait_seconds) as index:
            if not self._is_stale(index):
                return self._add(index, turns)
        self.discard()
        return True

    def discard(self) -> None:
        """Empty it, if there is one: of every word of what is deleted, too. It is filled again with the next search."""
        self._file.empty()

    def _is_stale(self, index: OpenedSearchFile) -> bool:
        version = _version(index.connection)
        if version == 0:
            return False
        return version != _VERSION or bool(index.connection.execute(self._sql["is_stale"]).fetchone()[0])

    def _add(self, index: OpenedSearchFile, turns: int) -> bool:
        connection = index.connection
        if _version(connection) and not connection.execute(self._sql["has_news"]).fetchone()[0]:
            return False
        with index.writing():
            if not _version(connection):
                for name in _MAKE:
                    connection.execute(self._sql[name])
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            given = {"searched": SEARCHED, "turns": turns}
            late = {name: connection.execute(self._sql[name], given).rowcount for name in _ADD}["note_late_outcomes"]
            return connection.execute(self._sql["note_places"]).rowcount + late > 0

    def _find(
        self,
        connection: sqlite3.Connection,
        question: Question,
        before: HitPosition | None,
        limit: int,
        now: datetime,
    ) -> list[Hit]:
        before_at, before_turn, before_part = (before[0].isoformat(), *before[1:]) if before else (None, None, None)
        without_answer = question.outcome in (Outcome.RUNNING, Outcome.INTERRUPTED)
        outcome = question.outcome and question.outcome.value
        wanted = {
            "words": expression(question),
            "principal": question.principal,
            "continuation_id": question.continuation_id,
            "tool": question.tool,
            "ended": None if without_answer else outcome,
            "lease": outcome if without_answer else None,
            "since": question.since and question.since.astimezone(UTC).isoformat(),
            "until": question.until and question.until.astimezone(UTC).isoformat(),
            "before_at": before_at,
            "before_turn": before_turn,
            "before_part": before_part,
            "now": now.isoformat(),
            "limit": limit,
        }
        under = "under_any" if question.continuation_id is None else "under_one"
        which = "without_words" if wanted["words"] is None else "with_words"
        find = "\n".join(self._sql[name] for name in ("found", which, under, "asked_for"))
        hits: list[Hit] = []
        for row in connection.execute(find, wanted).fetchall():
            message = connection.execute(self._sql["message"], {"id": row["id"], "now": wanted["now"]}).fetchone()
            if message is None:
                continue  # It was deleted a moment ago.
            hits.append(
                Hit(
                    principal=row["user_id"],
                    continuation_id=row["continuation_id"],
                    turn_id=row["turn_id"],
                    place=(row["id"] & 0xFFFF_FFFF) >> 1,
                    part=row["id"] & 1,
                    tool=row["tool"],
                    outcome=Outcome(row["outcome"] or message["lease"]),
                    created_at=datetime.fromisoformat(row["at"]),
                    excerpt=excerpt_of(question, message["content"]),
                )
            )
        return hits


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def expression(question: Question) -> str | None:
    """`question`'s words in the language of FTS5, in which everything of a caller's is a string; None if it has none.

    https://sqlite.org/fts5.html#full_text_query_syntax
    """
    if not question.every:
        return None
    wanted = " AND ".join(f"({' OR '.join(map(_quoted, group))})" for group in question.every)
    return " NOT ".join([f"({wanted})", *map(_quoted, question.none)])


def _quoted(term: Term) -> str:
    text = term.text.replace('"', " ")
    return f'"{text}"{"*" if term.prefix else ""}'
