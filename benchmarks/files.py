"""Keeping a file of 100 MB: a durable, hashed snapshot in the local file store, beside a plain copy and its hash."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import Candidate, Comparison, Goal, Result, interleaved
from benchmarks.peer_turns import PeerKind, opened
from benchmarks.peers.process import PeerProcess
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots
from perdure.middleware.persistence.files.keeper import FileKeeper, FileLimits
from perdure.middleware.persistence.stores.memory import MemoryStore

__all__ = ["run"]

_SIZE = 100_000_000
"""Bytes."""

_FLOOR = "floor: shutil.copyfile, then SHA-256"

_PEER = PeerKind("google-adk FileArtifactService, no fsync", "google-adk", "google_adk_files", ())

_LIMITS = FileLimits(max_file_bytes=_SIZE, max_turn_files=1, max_turn_bytes=_SIZE, max_total_bytes=1 << 40, seconds=600)


def run(rounds: int, folder: Path) -> list[Result]:
    with ExitStack() as stack:
        peers, notes = opened(stack, (_PEER,), lambda _: str(folder / "artifacts"))
        return [_compared(rounds, folder, peers, notes)]


def _compared(rounds: int, folder: Path, peers: Mapping[PeerKind, PeerProcess], notes: list[str]) -> Result:
    source = _Source(folder / "root" / "large.bin")
    kept = _Kept(folder / "data", source)
    comparison = Comparison(
        name="files",
        title=f"Keeping a file of {_SIZE / 1e6:.0f} MB",
        unit="ms",
        candidates=[
            Candidate(name=_FLOOR, measure=_copied(source, folder / "copy.bin", durable=False)),
            Candidate(
                name="the same, and an fsync", measure=_copied(source, folder / "copy.bin", durable=True), floor=_FLOOR
            ),
            Candidate(
                name="perdure, durable", measure=kept.measure, floor=_FLOOR, goal=Goal(quantity="ratio", limit=1.5)
            ),
            *(Candidate(name=kind.name, measure=_kept_by(peer, source), floor=_FLOOR) for kind, peer in peers.items()),
        ],
    )
    result = interleaved(comparison, rounds)
    notes += [
        f"Verified: all {kept.verified} files that were kept were read back, and have the hash of what was given out.",
        "The floor's copy is in the memory of the system when it is done; perdure's is on the disk.",
        *(f"{kind.name} needed {peer.ask('peak_megabytes'):.0f} MB of memory." for kind, peer in peers.items()),
    ]
    return replace(result, notes=notes)


def _kept_by(peer: PeerProcess, source: "_Source") -> Callable[[], float]:
    def measure() -> float:
        sha256 = source.renewed()
        taken = float(peer.ask("keep", path=str(source.path)))
        if peer.ask("sha256") != sha256:
            raise AssertionError("the peer kept another content")
        return taken * 1e3

    return measure


class _Source:
    """A file whose content is another in each round, so that none is there already; on disk before time is taken."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir()
        self.path = path
        with path.open("wb") as file:
            for _ in range(_SIZE // 1_000_000):
                file.write(os.urandom(1_000_000))

    def renewed(self) -> str:
        """The hash of its new content."""
        with self.path.open("r+b") as file:
            file.write(os.urandom(16))
            os.fsync(file.fileno())
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()


def _copied(source: _Source, target: Path, *, durable: bool) -> Callable[[], float]:
    def measure() -> float:
        sha256 = source.renewed()
        started = time.perf_counter()
        shutil.copyfile(source.path, target)
        with source.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if durable:
            with target.open("rb") as file:
                os.fsync(file.fileno())
        taken = time.perf_counter() - started
        if found != sha256:
            raise AssertionError("the copy was hashed wrongly")
        target.unlink()  # Nobody waits for the pages that another left to be written.
        return taken * 1e3

    return measure


class _Kept:
    def __init__(self, folder: Path, source: _Source) -> None:
        self.verified = 0
        self._source = source
        self._folder = folder
        self._file_store = LocalFileStore(folder, "mcp-files")
        self._keeper = FileKeeper(MemoryStore(), self._file_store, folder)
        self._roots = AllowedRoots([source.path.parent])

    def measure(self) -> float:
        sha256 = self._source.renewed()
        started = time.perf_counter()
        keeping = self._keeper.keeping("local", self._roots, _LIMITS, lambda done, size: None)
        uri = keeping.uri_for(str(self._source.path))
        taken = time.perf_counter() - started
        if uri is None or f"/{sha256}/" not in uri:
            raise AssertionError(f"the file was not kept: {keeping.left or uri}")
        self._verify(uri, sha256)
        return taken * 1e3

    def _verify(self, uri: str, sha256: str) -> None:
        """Reads it back, and makes room for the next."""
        key = uri.removeprefix(f"storage://{self._file_store.bucket}/")
        digest = hashlib.sha256()
        with self._file_store.read(key) as content:
            while piece := content.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != sha256:
            raise AssertionError(f"{uri} has other content than what was given out")
        self.verified += 1
        for path in (self._folder / self._file_store.bucket).rglob("*"):
            if path.is_file():
                path.unlink()
