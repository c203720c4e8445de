"""The whole of large messages in the file store: each a JSON document under a key that names its content."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.errors import FileMissing, PerdureError, StoreUnavailable
from perdure.logs import OnceAMinute, log
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.files.content import content_of
from perdure.middleware.persistence.files.names import tenant_of
from perdure.middleware.persistence.ports import FileStore, Spool
from perdure.middleware.persistence.turn import StoredFile

__all__ = ["Bodies"]

_MEDIA_TYPE = "application/vnd.perdure.message+json"
"""Tells a body from the files that tools give out: no content of theirs is ever taken for one."""


class Bodies:
    def __init__(self, file_store: FileStore, folder: Path) -> None:
        """`folder` is ours, for what is on its way."""
        self._file_store = file_store
        self._incoming = folder / "incoming"
        self._spool: Spool | None = None
        self._breaker = Breaker.never_opening()
        self._said = OnceAMinute()

    def wait_in(self, spool: Spool, breaker: Breaker) -> None:
        """Have `spool` take what the file store cannot take now. It is on the same file system as our folder.

        Not when this is made: the spool sends to the very store that keeps its bodies here.
        """
        self._spool = spool
        self._breaker = breaker

    def keep(self, principal: str, name: str, body: str) -> StoredFile | None:
        """Keep `body`, ASCII text; durable on return. None if it finds no room: then it has to stay where it is."""
        content = body.encode("ascii")
        sha256 = hashlib.sha256(content).hexdigest()
        kept = StoredFile(
            key=f"{tenant_of(principal)}/{sha256}/perdure-message.json",
            bucket=self._file_store.bucket,
            name=name,
            sha256=sha256,
            size=len(content),
            media_type=_MEDIA_TYPE,
        )
        try:
            return kept if self._put(kept, content) else None
        except (PerdureError, OSError) as error:
            # Nothing is lost: whoever asked keeps it in the store's own row.
            self.say("message.kept_in_store", "A large message stays in the store itself", error)
            return None

    def read(self, principal: str, key: str, size: int) -> str:
        """
        Raises:
            FileMissing: It is not there any more, is not what was kept, or is none of this principal's.
            StoreUnavailable: It could not be read now.
        """
        tenant, _, rest = key.partition("/")
        content = b""
        if tenant == tenant_of(principal):
            with content_of(key, self._file_store, self._spool) as source:
                content = source.read(max(size, 0) + 1)
        if hashlib.sha256(content).hexdigest() != rest.partition("/")[0]:
            raise FileMissing(
                f"The content of storage://{self._file_store.bucket}/{key} is not what was kept.",
                remedy="put back a backup of the file store.",
            )
        return content.decode("ascii")

    def say(self, event: str, what: str, error: Exception) -> None:
        """Log what became of a message because of `error`, once a minute each: no result of a call tells of it."""
        if self._said.is_due(event):
            log.warning(event, what=f"{what} ({error}).", remedy="look at the file store.")

    @staticmethod
    def is_one(file: StoredFile) -> bool:
        return file.media_type == _MEDIA_TYPE

    def _put(self, kept: StoredFile, content: bytes) -> bool:
        """Whether there is room for it.

        Raises:
            StoreUnavailable: Both the file store and the spool are away.
            SpoolFull: The file store is away, and the spool takes nothing more.
            OSError: Nothing can be written here.
        """
        try:
            with self._breaker.watching():
                most = self._file_store.most_bytes()
                if most is not None and kept.size > most:
                    return False
                if not self._file_store.holds(kept.key):
                    with self._snapshot(content) as snapshot:
                        self._file_store.put(kept.key, snapshot, media_type=kept.media_type)
        except StoreUnavailable as error:
            if self._spool is None:
                raise
            self.say("message.deferred", "A large message waits in the spool", error)
            with self._snapshot(content) as snapshot:
                self._spool.keep_file(kept.key, snapshot, media_type=kept.media_type)
        return True

    @contextmanager
    def _snapshot(self, content: bytes) -> Iterator[Path]:
        """A file with `content`, on the disk already, until whoever takes it over has done so."""
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._incoming / f"{os.getpid()}-{os.urandom(8).hex()}"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)
