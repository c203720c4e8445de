"""The spool as the rest of perdure sees it."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from perdure.errors import SpoolFull, TurnsWaiting
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.ports import Clock, FileStore, Store, Waiting
from perdure.middleware.persistence.spool.database import SpoolDatabase
from perdure.middleware.persistence.spool.drainer import Drainer
from perdure.middleware.persistence.spool.spooled_files import SpooledFiles
from perdure.middleware.persistence.spool.spooled_turns import ConversationKey, SpooledTurns
from perdure.middleware.persistence.turn import StoredFile, Turn, WaitingHistory, Window

__all__ = ["Quarantined", "Spool"]

_PAUSE = 0.01
"""Seconds after which a call looks again whether somebody else has sent its conversation's turns."""

_MOST_AT_A_CALL = 8
"""Turns that a call sends for its conversation before its own; more are left to the threads that drain."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    kind: str
    """`turn` or `file`."""
    id: str
    """The turn's id, or the file's key."""
    destination: str
    principal: str | None
    continuation_id: str | None
    reason: str
    at: str
    record: str | None
    """The whole turn, as JSON."""


class Spool:
    """`destination` names the stores it queues for: what waits for others is left alone. Opens nothing before it is
    needed. Safe to use from many threads and processes at once.
    """

    def __init__(
        self,
        folder: Path,
        destination: str,
        store: Store,
        file_store: FileStore,
        clock: Clock,
        *,
        max_bytes: int,
        longest_settling: float = 2.5,
        breaker: Breaker | None = None,
        file_breaker: Breaker | None = None,
    ) -> None:
        """`longest_settling`: seconds that a call waits for somebody else who is sending its conversation's turns."""
        self.destination = destination
        self.folder = folder
        self.breaker = breaker or Breaker()
        self.file_breaker = file_breaker or Breaker()
        self._max_bytes = max_bytes
        self._longest_settling = longest_settling
        self._database = SpoolDatabase(folder / "spool.db", clock)
        self._turns = SpooledTurns(self._database, destination, self._room)
        self._files = SpooledFiles(self._database, destination, folder / "files", self._room)
        self._drainer = Drainer(self._turns, self._files, store, file_store, self.breaker, self.file_breaker)

    # ── turns ────────────────────────────────────────────────────────────────────────────────────────────────

    def keep(self, turn: Turn) -> None:
        """Durable on return; an intent outlives the process, not a power loss. Sent in the background.

        Raises:
            SpoolFull: Nothing more is taken.
            StoreError: It cannot be written, or the turn cannot be written down.
        """
        self._turns.keep(turn)
        self._drainer.wake()

    def settle(self, principal: str, continuation_id: str) -> None:
        """Send what waits of one conversation, so that the turn which comes now does not overtake it.

        Raises:
            StoreUnavailable: It could not all be sent now.
        """
        if not self._database.exists():
            return
        conversation = ConversationKey(principal, continuation_id)
        if self._has_sent_all(conversation):
            return
        places = self._drainer.places_to_wait
        if not places.acquire(blocking=False):
            raise TurnsWaiting("Many calls wait already for turns that are being sent just now.", remedy="none: wait.")
        try:
            deadline = time.monotonic() + self._longest_settling
            while not self._has_sent_all(conversation):
                if time.monotonic() > deadline or self.breaker.is_open:
                    raise TurnsWaiting(
                        "Earlier turns of the conversation are being sent just now.", remedy="none: wait."
                    )
                time.sleep(_PAUSE)
        finally:
            places.release()

    def _has_sent_all(self, conversation: ConversationKey) -> bool:
        """Not if somebody else is at it.

        Raises:
            StoreUnavailable: Not all of it can be sent now.
        """
        waiting = self._turns.waiting(conversation, most=_MOST_AT_A_CALL + 1)
        if waiting > _MOST_AT_A_CALL:
            self._drainer.wake()
            raise TurnsWaiting(
                f"More than {_MOST_AT_A_CALL} earlier turns of the conversation are being sent.",
                remedy="none: wait.",
            )
        return waiting == 0 or self._drainer.send_conversation(conversation)

    def holds_up(self, principal: str, continuation_id: str) -> bool:
        """Whether anything waits of one conversation."""
        return self._database.exists() and self._turns.waiting(ConversationKey(principal, continuation_id), most=1) > 0

    def history(self, turn: Turn, window: Window) -> WaitingHistory:
        """What waits of the conversation of `turn`."""
        return self._turns.history(ConversationKey(turn.principal, turn.continuation_id), window, turn.id)

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────

    def keep_file(self, key: str, snapshot: Path, *, media_type: str) -> None:
        """Durable on return; takes `snapshot` away. Sent in the background.

        Raises:
            SpoolFull: Nothing more is taken.
            StoreUnavailable: It cannot be written.
        """
        self._files.keep(key, snapshot, media_type=media_type)
        self._drainer.wake()

    def holds_file(self, key: str) -> bool:
        return self._files.holds(key)

    @contextmanager
    def read_file(self, key: str) -> Iterator[BinaryIO | None]:
        """The content under `key`, to be read in pieces; None if it does not wait here."""
        with self._files.read(key) as content:
            yield content

    def file(self, principal: str, key: str) -> StoredFile | None:
        """The file that a turn which waits gave out to `principal` under `key`."""
        return self._turns.file(principal, key)

    # ── for operators, and for the end ───────────────────────────────────────────────────────────────────────

    def status(self) -> list[Waiting]:
        turns = {row["destination"]: row for row in self._database.read("count_turns", {})}
        files = {row["destination"]: row for row in self._database.read("count_files", {})}
        found = []
        for destination in sorted(turns.keys() | files.keys()):
            turn, file = turns.get(destination), files.get(destination)
            oldest = [row["oldest"] for row in (turn, file) if row is not None and row["oldest"]]
            found.append(
                Waiting(
                    destination,
                    turns=turn["waiting"] if turn else 0,
                    conversations=turn["conversations"] if turn else 0,
                    quarantined_turns=turn["quarantined"] if turn else 0,
                    files=file["waiting"] if file else 0,
                    file_bytes=file["bytes"] if file else 0,
                    quarantined_files=file["quarantined"] if file else 0,
                    oldest=min(oldest, default=None),
                )
            )
        return found

    def quarantine(self) -> list[Quarantined]:
        return [
            Quarantined(
                row["kind"],
                row["id"],
                row["destination"],
                row["user_id"],
                row["continuation_id"],
                row["reason"],
                row["quarantined_at"],
                row["turn"],
            )
            for row in self._database.read("list_quarantine", {})
        ]

    def retry(self, of: str | None = None) -> int:
        """Take one thing, or all, out of quarantine. Says how many there were."""
        return self._change(("retry_turns", "retry_files"), of)

    def discard(self, of: str) -> int:
        """Delete one thing that is in quarantine, for good. Says whether it was there."""
        return self._change(("discard_turn", "discard_file"), of)

    def names_file(self, key: str) -> bool:
        """Whether a turn that waits, for whichever store, gave out the file under `key`."""
        return bool(self._database.read("names_file", {"key": key}))

    def waiting(self, principal: str) -> int:
        """How many turns of a principal are here, for whichever store, those in quarantine too."""
        return sum(int(row["turns"]) for row in self._database.read("count_of_user", {"user_id": principal}))

    def forget(self, principal: str, continuation_id: str | None = None) -> int:
        """Drop what waits of a principal, or of one conversation, for whichever store, with the content of the files
        that no other turn which waits gave out. Says how many turns there were.
        """
        if not self._database.exists():
            return 0
        of_these = {"user_id": principal, "continuation_id": continuation_id}

        def forget(connection: sqlite3.Connection) -> tuple[int, list[str]]:
            sql = self._database.sql
            keys = [row["key"] for row in connection.execute(sql["files_of"], of_these)]
            turns = connection.execute(sql["forget_turns"], of_these).rowcount
            return turns, [key for key in keys if not connection.execute(sql["names_file"], {"key": key}).fetchone()]

        turns, keys = self._database.write(forget)
        for file in self._files.waiting():
            if file.key in keys:
                self._files.drop(file)
        return turns

    def set_aside(self) -> list[Path]:
        """Damaged files of earlier times, which are kept."""
        return self._database.set_aside()

    def wake(self) -> None:
        """Send what an earlier process left, if there is anything."""
        if self._database.exists():
            self._drainer.wake()

    def flush(self, seconds: float) -> None:
        """Return when nothing waits any more, when nothing can be sent, or after so many seconds."""
        if self._database.exists():
            self._drainer.flush(seconds)

    def close(self) -> None:
        self._drainer.stop()
        self._database.close()

    def _change(self, queries: tuple[str, str], of: str | None) -> int:
        def change(connection: sqlite3.Connection) -> int:
            return sum(connection.execute(self._database.sql[query], {"id": of}).rowcount for query in queries)

        return self._database.write(change) if self._database.exists() else 0

    def _room(self, connection: sqlite3.Connection, size: int) -> None:
        files = connection.execute(self._database.sql["file_bytes"]).fetchone()["bytes"]
        used = self._database.bytes_used(connection) + files
        if used + size > self._max_bytes:
            raise SpoolFull(
                f"The spool {self.folder} holds {used:,} bytes, and may hold {self._max_bytes:,}.",
                remedy="bring the store back (`perdure spool status`), or raise spool_max_bytes in perdure.toml.",
            )
