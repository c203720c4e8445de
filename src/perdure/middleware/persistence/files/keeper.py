"""Keeps the files that a tool's result names, and brings them back where an argument names them."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from perdure.errors import FileMissing, StoreUnavailable
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots, FileRefused
from perdure.middleware.persistence.files.content import PUT_BACK, checked_pieces, content_of
from perdure.middleware.persistence.files.names import local_name, safe_name, tenant_of
from perdure.middleware.persistence.files.snapshot import Limit, Progress, Snapshot, take_snapshot
from perdure.middleware.persistence.ports import FileStore, Spool, Store
from perdure.middleware.persistence.turn import StoredFile
from perdure.quick_values import frozen

__all__ = ["FileKeeper", "FileLimits", "Keeping", "LeftAlone"]

_KEEP_COPIES = 3600.0
"""Seconds: a tool may have handed its copy to something that works on after the call."""

_CLEAN_EVERY = 60.0
"""Seconds; and no copy is removed that is younger."""

_MOST_OF_COPIES = 1_000_000_000
"""Bytes of all copies together, beyond which the oldest go before their time."""


@frozen(kw_only=True)
class FileLimits:
    """Bytes, files and seconds that one turn, or all together, may take."""

    max_file_bytes: int
    max_turn_files: int
    max_turn_bytes: int
    max_total_bytes: int
    seconds: float


@frozen()
class LeftAlone:
    """A path that stays in the result as it is."""

    path: str
    reason: str
    setting: str | None


class FileKeeper:
    def __init__(
        self,
        store: Store,
        file_store: FileStore,
        folder: Path,
        spool: Spool | None = None,
        breaker: Breaker | None = None,
        store_breaker: Breaker | None = None,
    ) -> None:
        """`folder` is ours: snapshots on their way, and the local copies that tools are given.

        `spool` takes what the file store cannot take now, and is on the same file system as `folder`.
        """
        self.file_store = file_store
        self.spool = spool
        self.breaker = breaker or Breaker.never_opening()
        self._store_breaker = store_breaker or Breaker.never_opening()
        self.copies = folder / "copies"
        self._cleaned_at = 0.0
        self._store = store
        self._incoming = folder / "incoming"

    def keeping(
        self,
        principal: str,
        roots: AllowedRoots,
        limits: FileLimits,
        progress: Progress,
        *,
        own_copies: Collection[str] = (),
    ) -> "Keeping":
        """`own_copies` are the paths that `bring_back` gave to this same call."""
        return Keeping(self, principal, roots, limits, progress, own_copies)

    def bring_back(self, principal: str, uri: str, *, max_bytes: int, progress: Progress) -> Path:
        """A new local file with the content that `uri` names, checked by its hash, for one call alone.

        Tools may do what they like with it. It is removed some time after `_KEEP_COPIES` seconds.

        Raises:
            FileMissing: There is no such file of this principal.
            StoreUnavailable: It could not be read now.
            OSError: It could not be written here.
        """
        stored = self.find(principal, uri)
        self._remove_old_copies()
        folder = self.copies / os.urandom(16).hex()
        folder.mkdir(parents=True, mode=0o700)
        copy = folder / local_name(stored.name)
        try:
            with copy.open("xb") as out:
                self._copy(stored, out, max_bytes, progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return copy

    def copy_to(self, out: BinaryIO, principal: str, uri: str, *, progress: Progress) -> StoredFile:
        """Write what `uri` names to `out`, in pieces, checked by its hash.

        Raises:
            FileMissing: There is no such file of this principal; what was written until then is worth nothing.
            StoreUnavailable: It could not be read now.
        """
        stored = self.find(principal, uri)
        self._copy(stored, out, stored.size, progress)
        return stored

    def _copy(self, stored: StoredFile, out: BinaryIO, max_bytes: int, progress: Progress) -> None:
        if stored.size > max_bytes:
            raise FileMissing(
                f"{stored.uri} has {stored.size:,} bytes; at most {max_bytes:,} are brought back.",
                remedy="raise max_file_bytes in perdure.toml.",
            )
        done = 0
        for piece in checked_pieces(stored, self.file_store, self.spool):
            done += len(piece)
            out.write(piece)
            progress(done, stored.size)

    def content(self, principal: str, uri: str, *, max_bytes: int) -> tuple[bytes, str]:
        """What `uri` names, in memory, and its media type.

        Raises:
            FileMissing: There is no such file of this principal, or it is larger than `max_bytes`.
            StoreUnavailable: It could not be read now.
        """
        stored = self.find(principal, uri)
        if stored.size > max_bytes:
            raise FileMissing(
                f"{uri} has {stored.size:,} bytes; at most {max_bytes:,} are sent as a resource.",
                remedy="pass the URI to a tool, or raise max_resource_bytes in perdure.toml.",
            )
        with content_of(stored.key, self.file_store, self.spool) as source:
            content = source.read(stored.size + 1)
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            raise FileMissing(f"The content of {uri} is not what was kept.", remedy=PUT_BACK)
        return content, stored.media_type

    def _remove_old_copies(self) -> None:
        """Those over their time; and the oldest, if all together take too much room."""
        now = time.time()
        if now - self._cleaned_at < _CLEAN_EVERY:
            return
        self._cleaned_at = now
        room = _MOST_OF_COPIES
        for made_at, size, folder in sorted(_folders(self.copies), reverse=True):
            room -= size
            age = now - made_at
            if age > _KEEP_COPIES or (room < 0 and age > _CLEAN_EVERY):
                shutil.rmtree(folder, ignore_errors=True)

    def find(self, principal: str, uri: str) -> StoredFile:
        """
        Raises:
            FileMissing: There is no such file of this principal.
        """
        prefix = f"storage://{self.file_store.bucket}/"
        key = uri.removeprefix(prefix)
        stored = None
        if uri.startswith(prefix) and key.startswith(tenant_of(principal) + "/"):
            stored = self.spool.file(principal, key) if self.spool is not None else None
            if stored is None:
                with self._store_breaker.watching():
                    stored = self._store.file(principal, key)
        if stored is None:
            raise FileMissing(f"There is no file {uri}.", remedy="use a URI that an earlier result gave.")
        return stored


class Keeping:
    """The files of one result: each path is looked at once, however often it stands there."""

    def __init__(
        self,
        keeper: FileKeeper,
        principal: str,
        roots: AllowedRoots,
        limits: FileLimits,
        progress: Progress,
        own_copies: Collection[str],
    ) -> None:
        self.stored: dict[str, StoredFile] = {}
        self.left: dict[str, LeftAlone] = {}
        self.away: StoreUnavailable | None = None
        """Why some of them wait in the spool."""
        self._on_its_way: dict[str, tuple[StoredFile, Path]] = {}
        """By path: what is being put into the file store now, and the snapshot of it."""
        self._keeper = keeper
        self._tenant = tenant_of(principal)
        self._roots = roots
        self._limits = limits
        self._own_copies = own_copies
        self._deadline = time.monotonic() + limits.seconds
        self._progress = progress
        self._bytes = 0

    def uri_for(self, path: str) -> str | None:
        """The storage URI of the file at `path`, which is kept now; None if it is left alone.

        Raises:
            StoreUnavailable: The file store is away.
        """
        if path in self.stored:
            return self.stored[path].uri
        if path in self.left:
            return None
        try:
            self.stored[path] = stored = self._keep(path)
        except FileRefused as refused:
            self.left[path] = LeftAlone(path, refused.reason, refused.setting)
            return None
        return stored.uri

    def _keep(self, path: str) -> StoredFile:
        limits = self._limits
        if time.monotonic() > self._deadline:
            raise FileRefused("there was no time left to keep it", setting="file_timeout")
        if len(self.stored) >= limits.max_turn_files:
            raise FileRefused(f"at most {limits.max_turn_files} files are kept of one turn", setting="max_turn_files")
        # A copy is opened only for the call that it was made for; among the roots there are none.
        roots = AllowedRoots([self._keeper.copies]) if path in self._own_copies else self._roots
        file = roots.open(path)
        try:
            self._keeper._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
            snapshot = take_snapshot(file, self._keeper._incoming, self._limit(), self._progress)
        finally:
            os.close(file.descriptor)
        name = file.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        stored = StoredFile(
            key=f"{self._tenant}/{snapshot.sha256}/{safe_name(name)}",
            bucket=self._keeper.file_store.bucket,
            name=name,
            sha256=snapshot.sha256,
            size=snapshot.size,
            media_type=snapshot.media_type,
        )
        self._on_its_way[path] = stored, snapshot.path
        try:
            self._put(stored.key, snapshot)
        finally:
            self._on_its_way.pop(path, None)
            snapshot.path.unlink(missing_ok=True)
        self._bytes += snapshot.size
        return stored

    @property
    def is_on_its_way(self) -> bool:
        return bool(self._on_its_way)

    def rescue(self) -> None:
        """Take what is on its way to a file store that hangs into the spool.

        Raises:
            StoreUnavailable, SpoolFull: It cannot be kept there either.
        """
        for path, (stored, snapshot) in list(self._on_its_way.items()):
            if self._keeper.spool is not None:
                with contextlib.suppress(FileNotFoundError):  # It has just arrived.
                    self._keeper.spool.keep_file(stored.key, snapshot, media_type=stored.media_type)
                    self.stored[path] = stored

    def _put(self, key: str, snapshot: Snapshot) -> None:
        """Into the file store; into the spool if that is away.

        Raises:
            FileRefused: There is no room for it.
            StoreUnavailable: Both are away.
            SpoolFull: The file store is away, and the spool takes nothing more.
        """
        keeper = self._keeper
        try:
            with keeper.breaker.watching():
                self._refuse_over_limits(key, snapshot.size)
                keeper.file_store.put(key, snapshot.path, media_type=snapshot.media_type)
        except StoreUnavailable as error:
            if keeper.spool is None:
                raise
            keeper.spool.keep_file(key, snapshot.path, media_type=snapshot.media_type)
            self.away = error

    def _refuse_over_limits(self, key: str, size: int) -> None:
        """Here and not before: the same content a second time takes no room."""
        file_store, most = self._keeper.file_store, self._limits.max_total_bytes
        largest = file_store.most_bytes()
        if largest is not None and size > largest:
            raise FileRefused(
                f"it has {size:,} bytes, and the bucket's file_size_limit is {largest:,}",
                setting="file_size_limit of the bucket",
            )
        left = most - file_store.used_bytes()
        if size > left and not file_store.holds(key):
            raise FileRefused(
                f"it has {size:,} bytes, and max_total_bytes leaves {max(left, 0):,}", setting="max_total_bytes"
            )

    def _limit(self) -> Limit:
        """The tighter of two limits: what one file may have, and what is left of the turn's."""
        limits = self._limits
        allowed = {
            "max_file_bytes": limits.max_file_bytes,
            "max_turn_bytes": limits.max_turn_bytes - self._bytes,
        }
        setting = min(allowed, key=lambda name: allowed[name])
        return Limit(max(allowed[setting], 0), setting, self._deadline)


def _folders(parent: Path) -> Iterator[tuple[float, int, Path]]:
    """When each folder in `parent` was made, the bytes in it, and its path."""
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            with contextlib.suppress(OSError):
                size = sum(path.lstat().st_size for path in folder.iterdir()) if folder.is_dir() else 0
                yield folder.lstat().st_mtime, size, folder
