"""Full text search beside a database: an index of words in a file of its own, brought up to date by whoever searches.

Keeping turns so costs nothing for it, and needs no SQLite that has FTS5. The file holds words and no texts, and can be
deleted at any time: the next search makes it again. The statements are in `sql/sqlite/search_index.sql`.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.excerpts import SEARCHED, excerpt_of
from perdure.middleware.persistence.question import Question, Term
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.sqlite_file.database import is_damage
from perdure.middleware.persistence.turn import Outcome
from perdure.middleware.persistence.upkeep import Hit, HitPosition

__all__ = ["SearchIndex"]

_WAIT_SECONDS = 60.0
"""For another process that brings the index up to date."""

_VERSION = 1
"""Of the tables in it. One of another is made again."""

_MAKE = ("make_words", "faster", "make_messages", "make_conversations", "make_unanswered")
_ADD_NEW = ("add_new_words", "add_new_messages", "add_new_unanswered", "note_places")
_ADD_LATE = ("add_late_words", "add_late_messages", "note_late_outcomes", "forget_answered")


class SearchIndex:
    """Of the database at `path`, which it only reads."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.stem}-search.db")
        self._of = path
        self._sql = named_queries("sqlite/search_index.sql")

    def find(self, question: Question, before: HitPosition | None, limit: int, now: datetime) -> list[Hit]:
        """
        Raises:
            StoreUnavailable: This Python's SQLite cannot search, or another program changes the database all the time.
            sqlite3.Error: A file cannot be used.
        """
        for attempt in (1, 2):
            try:
                with self._opened() as connection:
                    if not self._is_stale(connection):
                        self._catch_up(connection)
                        return self._find(connection, question, before, limit, now)
            except sqlite3.DatabaseError as error:
                if "fts5" in str(error):
                    raise StoreUnavailable(
                        f"The SQLite of this Python ({sqlite3.sqlite_version}) was built without FTS5, which searches.",
                        remedy="use a Python whose SQLite has it, such as those of python.org, Debian or uv.",
                    ) from error
                if attempt == 2 or not is_damage(error):
                    raise
            self.discard()
        raise StoreUnavailable(
            f"Another program changes the database {self._of} while it is searched.",
            remedy="search again once a backup has been put back, or the program has ended.",
        )

    def discard(self) -> None:
        """Delete the index, and with it every word of what is deleted; the next search makes it again."""
        for ending in ("", "-journal"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        # Made by us first, so that it is never readable by others, not even for a moment.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw", uri=True, timeout=_WAIT_SECONDS, isolation_level=None
        )
        with contextlib.closing(connection):
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = OFF")  # A power loss may cost the index: then it is made again.
            connection.execute("ATTACH ? AS kept", (f"{self._of.as_uri()}?mode=ro",))
            yield connection

    def _is_stale(self, connection: sqlite3.Connection) -> bool:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            return False
        return bool(version != _VERSION or connection.execute(self._sql["is_stale"]).fetchone()[0])

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version and not self._has_news(connection):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for name in _MAKE:
                    connection.execute(self._sql[name])
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            # All of it in one transaction, which sees the database as it was at one moment.
            for name in (*_ADD_LATE, *_ADD_NEW):
                connection.execute(self._sql[name], {"searched": SEARCHED} if name.endswith("_words") else {})
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _has_news(self, connection: sqlite3.Connection) -> bool:
        return bool(connection.execute(self._sql["has_news"]).fetchone()[0])

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
        find = "\n".join(self._sql[name] for name in ("found", under, "asked_for"))
        if wanted["words"] is None:
            find = find.replace("words JOIN messages f ON f.id = words.rowid", "messages f").replace(
                "words MATCH :words", "f.id & 1 = 0"
            )
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
