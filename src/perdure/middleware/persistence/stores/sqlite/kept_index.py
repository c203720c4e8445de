"""The index of words as a server keeps it up: what is written is the index alone, and the database only read."""

import sqlite3

from perdure.middleware.persistence.sqlite_file.fork_gate import ForkGate
from perdure.middleware.persistence.stores.sqlite.search_file import SearchFileReplaced
from perdure.middleware.persistence.stores.sqlite.search_index import SearchIndex

__all__ = ["KeptSearchIndex"]

_AT_ONCE = 500
"""Turns in one transaction. A fork waits for no more than that."""

_WAIT_SECONDS = 0.5


class KeptSearchIndex:
    rest = 50.0
    faults: tuple[type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, index: SearchIndex, gate: ForkGate) -> None:
        """`gate` is that of the database which `index` reads."""
        self.where = str(index.path)
        self._index = index
        self._gate = gate

    def is_wanted(self) -> bool:
        return self._index.is_wanted()

    def add_some(self) -> bool:
        try:
            with self._gate.inside():
                return self._index.add(_AT_ONCE, wait_seconds=_WAIT_SECONDS)
        except SearchFileReplaced:
            return True
