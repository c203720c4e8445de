"""The files that wait: their content in a folder beside the spool's database, under the hash of their key."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.durable_folder import make_durably, sync_folder
from perdure.middleware.persistence.spool.database import SpoolDatabase
from perdure.middleware.persistence.spool.leases import Lease, lease
from perdure.middleware.persistence.spool.spooled_turns import Room

__all__ = ["SpooledFile", "SpooledFiles"]


@dataclass(frozen=True, slots=True)
class SpooledFile:
    key: str
    media_type: str
    attempts: int
    content: Path


class SpooledFiles:
    def __init__(self, database: SpoolDatabase, destination: str, folder: Path, room: Room) -> None:
        self._database = database
        self._destination = destination
        self._folder = folder
        self._room = room

    def keep(self, key: str, snapshot: Path, *, media_type: str) -> None:
        """Durable on return; takes `snapshot`, whose content is on the disk already, away.

        Raises:
            SpoolFull: Nothing more is taken.
            StoreUnavailable: It cannot be written.
        """
        target = self._path(key)
        size = snapshot.stat().st_size
        wanted = self._of(key) | {"media_type": media_type, "size": size, "now": self._database.now().isoformat()}

        # Within the transaction: whoever drops the same key at this moment does not take the new content away.
        def keep(connection: sqlite3.Connection) -> None:
            self._room(connection, size)
            make_durably(self._folder)
            snapshot.replace(target)
            sync_folder(self._folder)
            connection.execute(self._database.sql["keep_file"], wanted)

        self._database.write(keep)

    def holds(self, key: str) -> bool:
        return self._path(key).is_file()

    @contextmanager
    def read(self, key: str) -> Iterator[BinaryIO | None]:
        """The content under `key`, to be read in pieces; None if it does not wait here.

        Raises:
            StoreUnavailable: It cannot be read.
        """
        try:
            file = self._path(key).open("rb")
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise StoreUnavailable(
                f"A file that waits in {self._folder} cannot be read: {error.strerror}.",
                remedy="see to the permissions of that folder.",
            ) from error
        with file:
            yield file

    def waiting(self) -> Iterator[SpooledFile]:
        """By key."""
        key = ""
        while rows := self._database.read("next_file", self._of(key)):
            key = rows[0]["key"]
            yield SpooledFile(key, rows[0]["media_type"], rows[0]["attempts"], self._path(key))

    def leased(self, file: SpooledFile) -> AbstractContextManager[Lease | None]:
        """While nobody else works on it; None if somebody does."""
        return lease(self._database, f"{self._destination}\0file\0{file.key}")

    def drop(self, file: SpooledFile) -> None:
        """The file store has it."""

        def drop(connection: sqlite3.Connection) -> None:
            connection.execute(self._database.sql["drop_file"], self._of(file.key))
            file.content.unlink(missing_ok=True)

        self._database.write(drop, durable=False)

    def failed(self, file: SpooledFile, reason: str) -> None:
        self._change("file_failed", self._of(file.key) | {"reason": reason})

    def quarantine(self, file: SpooledFile, reason: str) -> None:
        now = self._database.now().isoformat()
        self._change("quarantine_file", self._of(file.key) | {"reason": reason, "now": now})

    def _change(self, query: str, wanted: dict[str, object]) -> None:
        self._database.write(lambda connection: connection.execute(self._database.sql[query], wanted))

    def _of(self, key: str) -> dict[str, object]:
        return {"destination": self._destination, "key": key}

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(f"{self._destination}\0{key}".encode()).hexdigest()
