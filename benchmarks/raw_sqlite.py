"""The floor under a durable turn in SQLite: the same two texts, the same read, one fsync, and nothing else."""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from benchmarks.content import answer_to, prompt_of

__all__ = ["RawTurns", "grow_log"]


class RawTurns:
    """A table of messages with no column beyond what a turn says. One thread, one connection, no lock of its own."""

    def __init__(self, path: Path, *, conversations: int, messages: int, window: int) -> None:
        """With `messages` in each conversation; `window` messages are read for a turn."""
        self._window = window
        self._next = [messages] * conversations
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA page_size = 8192")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, role TEXT, content TEXT)")
        self._connection.execute("BEGIN")
        for conversation in range(conversations):
            for number in range(0, messages, 2):
                self._insert(conversation << 32 | number, prompt_of(number))
        self._connection.execute("COMMIT")
        grow_log(path)

    def turn(self, conversation: int) -> None:
        """Reads the newest messages, then writes a prompt and its answer in one transaction."""
        self.turns_in_one_commit([conversation])

    def turns_in_one_commit(self, conversations: Iterable[int]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        for conversation in conversations:
            place = self._next[conversation]
            self._next[conversation] = place + 2
            key = conversation << 32 | place
            self._connection.execute(
                "SELECT role, content FROM messages WHERE id < ? ORDER BY id DESC LIMIT ?", (key, self._window)
            ).fetchall()
            self._insert(key, prompt_of(place))
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def _insert(self, key: int, prompt: str) -> None:
        self._connection.execute("INSERT INTO messages VALUES (?, 'user', ?)", (key, prompt))
        self._connection.execute("INSERT INTO messages VALUES (?, 'assistant', ?)", (key + 1, answer_to(prompt)))


def grow_log(path: Path) -> None:
    """Bring the write-ahead log of the database, which somebody holds open, to the size at which it starts again.

    So it is in any server that has run for a while. Before, each commit makes the file longer, and its fsync dearer.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        for number in range(_PAGES_IN_LOG):
            connection.execute(f"PRAGMA application_id = {number % 2}")  # The first page, and nothing that anyone uses.
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
    os.sync()  # What is still on its way to the disk would be paid by the first who waits for it.


_PAGES_IN_LOG = 1200
"""Above the 1,000 after which SQLite starts again."""
