"""A file store that can be told to be away, or to hang."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.file_stores.local import LocalFileStore


class AwayFileStore(LocalFileStore):
    """A real one that is told to be away, or to hang."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "mcp-files")
        self.away = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked = threading.Event()
        self.puts = 0
        self.media_types: dict[str, str] = {}

    def _ask(self) -> None:
        self.asked.set()
        self.goes_on.wait()
        if self.away:
            raise StoreUnavailable("The file store is away.", remedy="wait.")

    def put(self, key: str, snapshot: Path, *, media_type: str) -> None:
        self.puts += 1
        self._ask()
        super().put(key, snapshot, media_type=media_type)
        self.media_types[key] = media_type

    @contextmanager
    def read(self, key: str) -> Iterator[BinaryIO]:
        self._ask()
        with super().read(key) as content:
            yield content

    def holds(self, key: str) -> bool:
        self._ask()
        return super().holds(key)

    def used_bytes(self) -> int:
        self._ask()
        return super().used_bytes()

    def most_bytes(self) -> int | None:
        self._ask()
        return super().most_bytes()
