"""Takes a file's content as it is at one moment: what is hashed is what is kept, whatever happens to the file."""

import codecs
import contextlib
import hashlib
import mimetypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from perdure.middleware.persistence.files.allowed_roots import FileRefused, OpenFile

if TYPE_CHECKING:
    from puremagic import PureMagicWithConfidence

__all__ = ["Limit", "Progress", "Snapshot", "take_snapshot"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all, now and then."""

CHUNK = 1 << 20
"""Bytes read at once: memory stays at this, whatever the file's size."""

_TRIES = 3


class Limit(NamedTuple):
    bytes: int
    setting: str
    """What sets it."""
    deadline: float
    """On `time.monotonic()`."""


class Snapshot(NamedTuple):
    path: Path
    """A file of ours; whoever takes the snapshot removes it or moves it away."""
    sha256: str
    size: int
    media_type: str


def take_snapshot(file: OpenFile, folder: Path, limit: Limit, progress: Progress) -> Snapshot:
    """Copy the content of `file` into `folder`, and hash what was copied. Memory is constant.

    Raises:
        FileRefused: It is over a limit, or changed each time it was read.
    """
    for _ in range(_TRIES):
        before = os.fstat(file.descriptor)
        if before.st_size > limit.bytes:
            raise FileRefused(_too_large(before.st_size, limit), setting=limit.setting)
        snapshot = _copy(file, folder, before.st_size, limit, progress)
        if snapshot.size == before.st_size and _same(before, os.fstat(file.descriptor)):
            return snapshot
        snapshot.path.unlink()
        os.lseek(file.descriptor, 0, os.SEEK_SET)
    raise FileRefused("it changed while it was read")


def _copy(file: OpenFile, folder: Path, size: int, limit: Limit, progress: Progress) -> Snapshot:
    target = folder / f"{os.getpid()}-{os.urandom(8).hex()}"
    digest = hashlib.sha256()
    done = written_out = 0
    head = b""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as out:
            # One byte more than there was tells that it grows, as a log does: then it is not read on.
            while done <= size and (chunk := os.read(file.descriptor, min(CHUNK, size + 1 - done))):
                done += len(chunk)
                if done > limit.bytes:
                    raise FileRefused(_too_large(done, limit), setting=limit.setting)
                if time.monotonic() > limit.deadline:
                    raise FileRefused("there was no time left to keep it", setting="file_timeout")
                head = head or chunk[:4096]
                digest.update(chunk)
                out.write(chunk)
                written_out = _begin_writing_out(out.fileno(), written_out, done)
                progress(done, size)
            os.fsync(out.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Snapshot(target, digest.hexdigest(), done, _media_type(head, file.name))


def _begin_writing_out(descriptor: int, written_out: int, done: int) -> int:
    """Have the system write to the disk while we go on hashing, so that little is left for the fsync at the end."""
    if done - written_out < 8 * CHUNK or not hasattr(os, "posix_fadvise"):
        return written_out
    with contextlib.suppress(OSError):
        # Linux begins to write pages that are said not to be needed any more.
        os.posix_fadvise(descriptor, written_out, done - written_out, os.POSIX_FADV_DONTNEED)
    return done


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _too_large(size: int, limit: Limit) -> str:
    return f"it has {size:,} bytes, and {limit.setting} leaves {limit.bytes:,}"


_TEXT_TYPES = frozenset({"application/json", "application/xml", "application/toml", "image/svg+xml"})

_SURE = 4
"""Bytes of a mark at the beginning of what reads as text: "BM" and "ID3" begin sentences too."""


def _media_type(head: bytes, name: str) -> str:
    """By content. Text that has no mark of its own is what its name says, if that is a kind of text."""
    is_text = _is_text(head)
    for found in _marks(head, name):
        if found.mime_type and (not is_text or len(found.byte_match or b"") >= _SURE):
            return str(found.mime_type)
    if not is_text:
        return "application/octet-stream"
    by_name, _ = mimetypes.guess_type(name)
    return by_name if by_name and (by_name.startswith("text/") or by_name in _TEXT_TYPES) else "text/plain"


def _marks(head: bytes, name: str) -> "list[PureMagicWithConfidence]":
    import puremagic  # noqa: PLC0415 - reads its table of marks, and most processes keep no file

    try:
        return puremagic.magic_string(head, filename=name)
    except Exception:  # noqa: BLE001 - whatever it trips over, the file is kept
        return []


def _is_text(head: bytes) -> bool:
    try:
        # A character may be cut at the end of the head.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not any(character < " " and character not in "\t\n\r\f\x1b" for character in text)
