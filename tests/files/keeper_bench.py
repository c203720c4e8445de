"""A keeper of files over stores of its own, and a folder that tools write to."""

import hashlib
from pathlib import Path
from typing import Any

from away_file_store import AwayFileStore

from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots
from perdure.middleware.persistence.files.keeper import FileKeeper, FileLimits, Keeping
from perdure.middleware.persistence.files.names import safe_name
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import StoredFile
from perdure.testing import FaultyStore, FrozenClock
from perdure.testing.turns import a_turn, answered

BUCKET = "mcp-files"
WIDE = {"max_file_bytes": 1000, "max_turn_files": 10, "max_turn_bytes": 1000, "max_total_bytes": 1000, "seconds": 60.0}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def key_of(content: bytes, name: str = "a.txt", tenant: str = "alice") -> str:
    return f"{tenant}/{sha256(content)}/{name}"


class Bench:
    def __init__(self, folder: Path, *, spooled: bool = False) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.folder = folder / "ours"
        self.store = FaultyStore(MemoryStore())
        self.file_store = AwayFileStore(folder / "kept")
        self.breaker, self.store_breaker = Breaker(failures=2), Breaker(failures=2)
        self.spool: Spool | None = None
        if spooled:
            self.spool = Spool(
                folder / "spool",
                "here",
                MemoryStore(),
                AwayFileStore(folder / "elsewhere"),
                FrozenClock(),
                max_bytes=1_000_000,
            )
            self.spool._drainer.stop()  # what waits, waits
        self.keeper = FileKeeper(self.store, self.file_store, self.folder, self.spool, self.breaker, self.store_breaker)
        self.progress: list[tuple[int, int]] = []

    def note(self, done: int, size: int) -> None:
        self.progress.append((done, size))

    def file(self, content: bytes, name: str = "a.txt") -> str:
        path = self.root / name
        path.write_bytes(content)
        return str(path)

    def keeping(self, *, own_copies: tuple[str, ...] = (), **limits: Any) -> Keeping:
        roots = AllowedRoots([self.root])
        return self.keeper.keeping("alice", roots, FileLimits(**WIDE | limits), self.note, own_copies=own_copies)

    def kept(self, content: bytes, name: str = "a.txt", principal: str = "alice") -> StoredFile:
        """A file that an earlier turn gave out."""
        file = StoredFile(
            key=key_of(content, safe_name(name), principal),
            bucket=BUCKET,
            name=name,
            sha256=sha256(content),
            size=len(content),
            media_type="text/plain",
        )
        self.put(file.key, content)
        turn = a_turn("earlier", continuation_id="c", principal=principal, files=(file,))
        [stored] = self.store.finish(answered(turn)).files
        return stored

    def put(self, key: str, content: bytes) -> None:
        snapshot = self.root.parent / "snapshot"
        snapshot.write_bytes(content)
        self.file_store.put(key, snapshot, media_type="text/plain")

    def alter(self, stored: StoredFile, content: bytes) -> None:
        tenant, digest, _ = stored.key.split("/")
        (self.root.parent / "kept" / BUCKET / tenant / digest).write_bytes(content)

    def bring_back(self, uri: str, *, max_bytes: int = 1000) -> Path:
        return self.keeper.bring_back("alice", uri, max_bytes=max_bytes, progress=self.note)

    def waiting(self, key: str) -> bytes | None:
        assert self.spool is not None
        with self.spool.read_file(key) as content:
            return content.read() if content is not None else None

    def incoming(self) -> list[Path]:
        return list((self.folder / "incoming").iterdir())
