"""Writes an archive, a line at a time: its size does not matter."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from perdure.errors import FileMissing, PerdureError
from perdure.middleware.persistence.archive.lines import conversation_line, turn_line
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.turn import ConversationSummary, JsonObject, StoredFile, Turn

__all__ = ["FORMAT", "VERSION", "export_to"]

FORMAT = "perdure-archive"
VERSION = 1

_PAGE = 200
_PIECE = 1 << 20


def export_to(
    folder: Path,
    store: Store,
    file_store: FileStore,
    *,
    principal: str | None,
    at: datetime,
    progress: Callable[[int, int], None],
) -> JsonObject:
    """Write everything, or what `principal` has, to `folder`, which is new or empty. Returns the manifest.

    `progress` is told how many conversations are done, and how many are known of.

    Raises:
        PerdureError: The folder cannot be used, or what is kept cannot be read. The archive then has no manifest.
    """
    _make(folder)
    counts = {"conversations": 0, "turns": 0, "files": 0, "bytes": 0}
    checksum = hashlib.sha256()
    missing: list[str] = []
    buckets: set[str] = set()
    lines = list(_conversations(store, principal))
    with (folder / "turns.jsonl").open("wb") as out:

        def write(line: JsonObject) -> None:
            text = json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
            checksum.update(text)
            out.write(text)

        # Oldest first, so that the newest are the newest again where they are read back.
        for number, conversation in enumerate(reversed(lines), start=1):
            write(conversation_line(conversation))
            files = _files_by_turn(store, conversation)
            for turn in _turns(store, conversation):
                given_out = files.get(turn.id, [])
                for file in given_out:
                    buckets.add(file.bucket)
                    counts["bytes"] += _copy(file_store, file, folder / "files", missing)
                write(turn_line(turn, given_out))
                counts["turns"] += 1
                counts["files"] += len(given_out)
            counts["conversations"] += 1
            progress(number, len(lines))
        out.flush()
        os.fsync(out.fileno())
    manifest: JsonObject = {
        "format": FORMAT,
        "version": VERSION,
        "exported_at": at.isoformat(),
        **counts,
        "buckets": sorted(buckets),
        "missing_files": missing,
        "sha256": checksum.hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _make(folder: Path) -> None:
    files = folder / "files"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = [path for path in folder.iterdir() if path != files]
        there += files.iterdir() if files.exists() else ()  # An export that read nothing has left it empty.
        if not there:
            files.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise PerdureError(
            f"{folder} cannot be written: {error.strerror}.", remedy="name a new or empty folder."
        ) from error
    if there:
        raise PerdureError(f"{folder} is not empty.", remedy="name a new or empty folder.")


def _conversations(store: Store, principal: str | None) -> Iterator[ConversationSummary]:
    before = None
    while page := store.conversations(principal, before=before, limit=_PAGE):
        yield from page
        before = page[-1].updated_at, page[-1].principal, page[-1].continuation_id


def _turns(store: Store, conversation: ConversationSummary) -> Iterator[Turn]:
    after = 0
    while page := store.turns(conversation.principal, conversation.continuation_id, after=after, limit=_PAGE):
        yield from page
        after = page[-1].place or after + len(page)


def _files_by_turn(store: Store, conversation: ConversationSummary) -> dict[str, list[StoredFile]]:
    files: dict[str, list[StoredFile]] = {}
    for file in store.files(conversation.principal, conversation.continuation_id, limit=1_000_000):
        files.setdefault(file.turn_id, []).append(file)
    return files


def _copy(file_store: FileStore, file: StoredFile, folder: Path, missing: list[str]) -> int:
    """Copy the content once, checked by its hash. Returns the bytes that were copied."""
    target = folder / file.sha256
    if target.exists():
        return 0
    half = folder / f"{file.sha256}.part"
    digest = hashlib.sha256()
    try:
        with file_store.read(file.key) as source, half.open("wb") as out:
            while piece := source.read(_PIECE):
                digest.update(piece)
                out.write(piece)
    except FileMissing:
        half.unlink(missing_ok=True)
        missing.append(file.uri)
        return 0
    if digest.hexdigest() != file.sha256:
        half.unlink()
        missing.append(file.uri)
        return 0
    half.replace(target)
    return target.stat().st_size
