"""Reads an archive into any backend. Again does no harm: a turn that is there already is not written twice."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from perdure.errors import PerdureError, TurnConflict
from perdure.middleware.persistence.archive.exporting import FORMAT, VERSION
from perdure.middleware.persistence.archive.line_shapes import fault_of
from perdure.middleware.persistence.archive.lines import conversation_of, shared_of, turn_of
from perdure.middleware.persistence.archive.sharing import Shared
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.turn import ConversationSummary, JsonObject, Outcome, Turn, Window

__all__ = ["ArchiveClock", "Imported", "import_from", "manifest_of"]

_NO_HISTORY = Window(turns=0, tokens=0)
_PIECE = 1 << 20


class ArchiveClock:
    """Tells a store the times that the archive tells, so that conversations are as old as they were."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time


@dataclass(slots=True)
class Imported:
    conversations: int = 0
    turns: int = 0
    """New ones."""
    known: int = 0
    """Turns that were here already."""
    files: int = 0
    conflicts: list[str] = field(default_factory=list)
    """Turn ids that are here for another call. Those turns are left out."""


def manifest_of(folder: Path) -> JsonObject:
    """What `folder` holds, once it is known to be whole.

    Raises:
        PerdureError: It is no archive, one of a newer perdure, not whole, or changed since.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(manifest["format"])
        version, checksum = int(manifest["version"]), str(manifest["sha256"])
        if not isinstance(manifest["turns"], int) or not all(isinstance(name, str) for name in manifest["buckets"]):
            raise TypeError("a count or a name is none")
    except FileNotFoundError:
        raise PerdureError(
            f"{folder} has no manifest.json: it is no archive, or its export did not come to its end.",
            remedy="run `perdure export` again, into a new folder.",
        ) from None
    except OSError as error:
        raise PerdureError(
            f"{folder / 'manifest.json'} cannot be read: {error.strerror}.",
            remedy="name a folder that `perdure export` wrote.",
        ) from error
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise PerdureError(
            f"{folder / 'manifest.json'} is not the manifest of an archive ({error}).",
            remedy="name a folder that `perdure export` wrote.",
        ) from error
    if version > VERSION:
        raise PerdureError(
            f"{folder} has version {version} of the format; this perdure knows up to {VERSION}.",
            remedy="upgrade perdure to the version that wrote it.",
        )
    if _checksum(folder / "turns.jsonl") != checksum:
        raise PerdureError(
            f"{folder / 'turns.jsonl'} is not what was exported: its checksum is another.",
            remedy="put back a copy of the archive, or export again. Nothing was imported.",
        )
    _check_lines(folder / "turns.jsonl")
    return dict(manifest)


def _check_lines(path: Path) -> None:
    """
    Raises:
        PerdureError: One of them is not what `perdure export` writes.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                fault = fault_of(json.loads(line), is_first=number == 1)
            except (ValueError, RecursionError) as error:
                fault = f"it is no JSON ({error})"
            if fault is not None:
                raise PerdureError(
                    f"Line {number:,} of {path} cannot be imported: {fault}.",
                    remedy="export again, and edit nothing in it. Nothing was imported.",
                )


def import_from(
    folder: Path, store: Store, file_store: FileStore, clock: ArchiveClock, *, progress: Callable[[int], None]
) -> Imported:
    """Bring everything in `folder` into `store`, which was made with `clock`. `progress` is told the turns done.

    Raises:
        PerdureError: A file's content is not what was exported. What was imported until then stays, and is known when
            the import runs again.
        StoreError: A store is away.
    """
    done = Imported()
    read = 0
    for conversation, shared, turns in _conversations(folder, file_store.bucket):
        with_files: list[Turn] = []
        if shared is not None:
            clock.time = conversation.created_at
            _fork(store, conversation, shared)
        for turn in turns:
            last = turn.place == conversation.turns
            clock.time = conversation.updated_at if last else conversation.created_at
            if last and conversation.expires_at is not None:  # to be read until then, and not from now on
                turn = replace(turn, expire_after=conversation.expires_at - clock.time)  # noqa: PLW2901
            if _begun(store, turn, done) and turn.outcome is not Outcome.RUNNING:
                if turn.files:
                    with_files.append(turn)
                else:
                    store.finish(turn)
            read += 1
            progress(read)
        # In the order in which they were given out: so each has the version that it had.
        for turn in sorted(with_files, key=lambda turn: turn.ended_at or turn.started_at):
            done.files += _keep_files(folder, turn, file_store)
            store.finish(turn)
        done.conversations += 1
    return done


def _fork(store: Store, conversation: ConversationSummary, shared: Shared) -> None:
    """
    Raises:
        ForkRefused: What it was forked from is not here.
    """
    if store.turns(conversation.principal, conversation.continuation_id, limit=1):
        return  # An import before this one has made it.
    store.fork(
        conversation.principal,
        shared.continuation_id,
        shared.place,
        conversation.continuation_id,
        minted=conversation.minted,
    )


def _conversations(folder: Path, bucket: str) -> Iterator[tuple[ConversationSummary, Shared | None, Iterator[Turn]]]:
    with (folder / "turns.jsonl").open("rb") as lines:
        line = lines.readline()
        while line:
            told = json.loads(line)
            conversation, shared = conversation_of(told), shared_of(told)
            line = b""

            def turns(conversation: ConversationSummary = conversation) -> Iterator[Turn]:
                nonlocal line
                while line := lines.readline():
                    found = json.loads(line)
                    if found["kind"] != "turn":
                        return
                    yield turn_of(found, conversation, bucket)

            yield conversation, shared, turns()


def _begun(store: Store, turn: Turn, done: Imported) -> bool:
    """Whether the turn is there now, and this import may end it."""
    try:
        begun = store.begin(turn, _NO_HISTORY)
    except TurnConflict:
        done.conflicts.append(turn.id)
        return False
    if begun.replay:
        done.known += 1
    else:
        done.turns += 1
    return True


def _keep_files(folder: Path, turn: Turn, file_store: FileStore) -> int:
    kept = 0
    for file in turn.files:
        content = folder / "files" / file.sha256
        if not content.exists():
            continue  # It was missing when it was exported, and the manifest says so.
        if _checksum(content) != file.sha256:
            raise PerdureError(
                f"{content} is not what was exported: its checksum is another.",
                remedy="put back a copy of the archive, or export again.",
            )
        if file_store.holds(file.key):
            continue
        with tempfile.TemporaryDirectory(prefix="perdure-import-") as temporary:
            snapshot = Path(temporary, "snapshot")
            shutil.copyfile(content, snapshot)  # A file store may take it away, and the archive stays whole.
            file_store.put(file.key, snapshot, media_type=file.media_type)
        kept += 1
    return kept


def _checksum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PerdureError(
            f"{path} cannot be read: {error.strerror}.", remedy="put back a copy of the archive."
        ) from error
