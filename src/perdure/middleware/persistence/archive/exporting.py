"""Writes an archive, a line at a time: its size does not matter."""

import hashlib
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from perdure.middleware.persistence.archive.lines import conversation_line, turn_line
from perdure.middleware.persistence.archive.reading import (
    conversations_of,
    copied,
    files_by_turn,
    made_folder,
    turns_of,
)
from perdure.middleware.persistence.archive.sharing import Sharing
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.turn import JsonObject

__all__ = ["FORMAT", "VERSION", "export_to"]

FORMAT = "perdure-archive"
VERSION = 2

_WITHOUT_FORKS = 1
"""The version that knew of no forks: what has none can be read by every perdure."""


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
    made_folder(folder)
    counts = {"conversations": 0, "turns": 0, "files": 0, "bytes": 0}
    checksum = hashlib.sha256()
    missing: list[str] = []
    buckets: set[str] = set()
    lines = list(conversations_of(store, principal))
    sharing = Sharing(store)
    version = _WITHOUT_FORKS
    with (folder / "turns.jsonl").open("wb") as out:

        def write(line: JsonObject) -> None:
            text = json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
            checksum.update(text)
            out.write(text)

        # Oldest first, so that the newest are the newest again where they are read back.
        for number, conversation in enumerate(reversed(lines), start=1):
            shared = sharing.of(conversation)
            write(conversation_line(conversation, shared))
            files = files_by_turn(store, conversation)
            for turn in turns_of(store, conversation, after=shared.place if shared else 0):
                given_out = files.get(turn.id, [])
                for file in given_out:
                    buckets.add(file.bucket)
                    size = copied(file_store, file, folder / "files" / file.sha256)
                    counts["bytes"] += size or 0
                    if size is None:
                        missing.append(file.uri)
                write(turn_line(turn, given_out))
                counts["turns"] += 1
                counts["files"] += len(given_out)
            counts["conversations"] += 1
            version = VERSION if shared else version
            progress(number, len(lines))
        out.flush()
        os.fsync(out.fileno())
    manifest: JsonObject = {
        "format": FORMAT,
        "version": version,
        "exported_at": at.isoformat(),
        **counts,
        "buckets": sorted(buckets),
        "missing_files": missing,
        "sha256": checksum.hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest
