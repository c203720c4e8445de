"""Where the content of a stored file is just now."""

import contextlib
from collections.abc import Iterator
from typing import BinaryIO

from perdure.middleware.persistence.ports import FileStore, Spool

__all__ = ["content_of"]


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
