"""Files in a folder: `<folder>/<tenant>/<sha256>`, each content once for each tenant."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from perdure.errors import FileMissing, StoreUnavailable
from perdure.middleware.persistence.durable_folder import make_durably, sync_folder
from perdure.middleware.persistence.file_stores.keys import checked

__all__ = ["LocalFileStore"]

_COUNT_AGAIN_AFTER = 60.0
"""Seconds. Other processes keep files too."""


class LocalFileStore:
    one_copy = True

    def __init__(self, folder: Path, bucket: str) -> None:
        self.bucket = bucket
        self._folder = folder.absolute() / bucket
        self._counting = threading.Lock()
        self._used = 0
        self._counted_at: float | None = None

    def put(self, key: str, snapshot: Path, *, media_type: str) -> None:
        target = self._path(key)
        with self._explained(target):
            size = snapshot.stat().st_size
            if _is_there(target, size):
                return
            make_durably(target.parent)
            # The name appears at once and whole, and outlives a power loss: the content was synced by whoever wrote it.
            snapshot.replace(target)
            sync_folder(target.parent)
        with self._counting:
            self._used += size

    @contextmanager
    def read(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        with self._explained(path):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise FileMissing(
                    f"The content of storage://{self.bucket}/{key} is not there.",
                    remedy="put back a backup of the folder.",
                ) from None
        with file:
            yield file

    def holds(self, key: str) -> bool:
        path = self._path(key)
        with self._explained(path):
            return path.is_file()

    def used_bytes(self) -> int:
        with self._counting:
            now = time.monotonic()
            if self._counted_at is None or now - self._counted_at > _COUNT_AGAIN_AFTER:
                with self._explained(self._folder):
                    self._used = sum(path.stat().st_size for path in self._folder.glob("*/*") if path.is_file())
                self._counted_at = now
            return self._used

    def remove(self, key: str, *, unused_since: datetime) -> bool:
        path = self._path(key)
        aside = path.with_name(f"{path.name}.{os.urandom(8).hex()}.unneeded")
        with self._explained(path):
            try:
                path.rename(aside)  # From now on, whoever puts it finds nothing and brings it anew.
            except FileNotFoundError:
                return True
            if aside.stat().st_mtime >= unused_since.timestamp():
                with contextlib.suppress(FileExistsError):
                    os.link(aside, path)
                aside.unlink()
                return False
            aside.unlink()
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        return True

    def most_bytes(self) -> int | None:
        return None

    def signed_url(self, key: str, *, seconds: int) -> str | None:
        checked(key)
        return None

    def _path(self, key: str) -> Path:
        parts = checked(key)
        return self._folder / parts["tenant"] / parts["sha256"]

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"The file {path} cannot be kept or read: {error.strerror}.",
                remedy=f"see to the space and the permissions of {self._folder}.",
            ) from error


def _is_there(path: Path, size: int) -> bool:
    """Whether it is, and whole; if so, as one that is used now, so that nobody removes it at this moment."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
