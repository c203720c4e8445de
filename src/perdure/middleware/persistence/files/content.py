"""Where the content of a stored file is just now."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from perdure.errors import FileMissing
from perdure.middleware.persistence.files.snapshot import CHUNK
from perdure.middleware.persistence.ports import FileStore, Spool
from perdure.middleware.persistence.turn import StoredFile

__all__ = ["PUT_BACK", "checked_pieces", "content_of"]

PUT_BACK = "put back a backup of the file store."


@contextlib.contextmanager
def content_of(key: str, file_store: FileStore, spool: Spool | None) -> Iterator[BinaryIO]:
    """The content under `key`, to be read in pieces: from the spool while it waits there, else from the file store.

    Raises:
        FileMissing: There is none.
        StoreUnavailable: It cannot be read now.
    """
    with contextlib.ExitStack() as opened:
        waiting = opened.enter_context(spool.read_file(key)) if spool is not None else None
        yield waiting if waiting is not None else opened.enter_context(file_store.read(key))


def checked_pieces(stored: StoredFile, file_store: FileStore, spool: Spool | None) -> Iterator[bytes]:
    """The content of `stored`. Its last piece is given only if all of them together are what was kept.

    Raises:
        FileMissing: There is none, or it is another.
        StoreUnavailable: It cannot be read now.
    """
    digest = hashlib.sha256()
    done, held_back = 0, b""
    with content_of(stored.key, file_store, spool) as source:
        while done <= stored.size and (piece := source.read(CHUNK)):
            if held_back:
                yield held_back
            done += len(piece)
            digest.update(piece)
            held_back = piece
    if digest.hexdigest() != stored.sha256:
        raise FileMissing(f"The content of {stored.uri} is not what was kept.", remedy=PUT_BACK)
    yield held_back
