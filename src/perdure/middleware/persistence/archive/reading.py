"""Everything that a store has, page by page, and the content of its files: what every kind of export reads."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from perdure.errors import FileMissing, PerdureError
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.turn import ConversationSummary, StoredFile, Turn

__all__ = ["conversations_of", "copied", "files_by_turn", "made_folder", "turns_of"]

_PAGE = 200
_PIECE = 1 << 20


def made_folder(folder: Path) -> Path:
    """`folder`, new or empty, with a folder `files` in it.

    Raises:
        PerdureError: It cannot be made, or something is in it.
    """
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
    return folder


def conversations_of(store: Store, principal: str | None) -> Iterator[ConversationSummary]:
    """Newest first."""
    before = None
    while page := store.conversations(principal, before=before, limit=_PAGE):
        yield from page
        before = page[-1].updated_at, page[-1].principal, page[-1].continuation_id


def turns_of(store: Store, conversation: ConversationSummary, *, after: int = 0) -> Iterator[Turn]:
    while page := store.turns(conversation.principal, conversation.continuation_id, after=after, limit=_PAGE):
        yield from page
        after = page[-1].place or after + len(page)


def files_by_turn(store: Store, conversation: ConversationSummary) -> dict[str, list[StoredFile]]:
    files: dict[str, list[StoredFile]] = {}
    for file in store.files(conversation.principal, conversation.continuation_id, limit=1_000_000):
        files.setdefault(file.turn_id, []).append(file)
    return files


def copied(file_store: FileStore, file: StoredFile, target: Path) -> int | None:
    """The bytes that were copied to `target`, checked by the file's hash; 0 if they are there already. None if the
    content is not there any more, or is not what it was.

    Raises:
        StoreUnavailable: The file store is away.
    """
    if target.exists():
        return 0
    half = target.with_name(f"{target.name}.part")
    digest = hashlib.sha256()
    try:
        with file_store.read(file.key) as source, half.open("wb") as out:
            while piece := source.read(_PIECE):
                digest.update(piece)
                out.write(piece)
    except FileMissing:
        half.unlink(missing_ok=True)
        return None
    if digest.hexdigest() != file.sha256:
        half.unlink()
        return None
    half.replace(target)
    return target.stat().st_size
