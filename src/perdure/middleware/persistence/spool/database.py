"""The spool's own database file: every write in it outlives a power loss, and a damaged file is set aside and kept."""

import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from perdure.logs import log
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.sqlite_file.database import Connect, Database, explained, is_damage
from perdure.middleware.persistence.sqlite_file.group_writer import GroupWriter

__all__ = ["SpoolDatabase"]

T = TypeVar("T")


class SpoolDatabase:
    def __init__(self, path: Path, clock: Clock, connect: Connect | None = None) -> None:
        self.path = path.absolute()
        self.sql: Mapping[str, str] = named_queries("spool/queries.sql")
        self._clock = clock
        self._database = Database(self.path, clock, schema="spool", connect=connect)
        self._writer = GroupWriter(self._database.writing)

    def exists(self) -> bool:
        return self._database.exists()

    def now(self) -> datetime:
        return self._clock.now()

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """
        Raises:
            StoreUnavailable: It cannot be written.
        """

        def written() -> T:
            with self._database.gate.inside():
                return self._writer.write(work, durable=durable)

        with explained(self.path):
            return self._once_more_if_damaged(written)

    def read(self, query: str, wanted: Mapping[str, Any]) -> list[sqlite3.Row]:
        """What `query`, by its name, finds; nothing where nothing was ever written.

        Raises:
            StoreUnavailable: It cannot be read.
        """

        def found() -> list[sqlite3.Row]:
            with self._database.gate.inside():
                if not self._database.exists():
                    return []
                with self._database.reading() as reader:
                    return reader.execute(self.sql[query], wanted).fetchall()

        with explained(self.path):
            return self._once_more_if_damaged(found)

    def bytes_used(self, connection: sqlite3.Connection) -> int:
        """What the rows take up, in bytes; the space of those that are gone does not count."""
        pages, free, size = (
            connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def set_aside(self) -> list[Path]:
        """The files that were found damaged, and are kept."""
        return sorted(self.path.parent.glob(f"{self.path.name}.damaged-*[0-9]"))

    def close(self) -> None:
        with self._database.gate.inside():
            self._database.close()

    def _once_more_if_damaged(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            aside = self._database.moved_aside_if_damaged(f"damaged-{self._clock.now():%Y%m%d%H%M%S%f}")
            if aside is not None:
                log.error(
                    "spool.damaged",
                    what=f"The spool {self.path} is damaged ({error}). It is kept as {aside}, with what waited in it.",
                    remedy=f"look at the disk; `sqlite3 {aside.name} .recover` may get turns out of it.",
                )
            return work()
