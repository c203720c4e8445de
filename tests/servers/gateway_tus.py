"""TUS 1.0.0 at /storage/v1/upload/resumable, as @tus/server 2.4 under storage-api 1.70 behaves.

Its own refusals are plain text with a true HTTP status; those of the token come from storage-api (JSON, 400). What is
under way is in files, so it survives the gateway.
"""

import base64
import binascii
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal

from servers import gateway_errors as errors
from servers.gateway_database import SERVICE, Caller
from servers.gateway_http import ClientGone, ConnectionCut, Reply, Request
from servers.gateway_objects import (
    VALID_BUCKET,
    Draft,
    Objects,
    must_be_allowed,
    must_be_valid_key,
    must_fit_the_file_system,
)

PATH = "/storage/v1/upload/resumable"
CHUNK = 6 * 1024 * 1024
OFFSET_STREAM = "application/offset+octet-stream"
Locking = Literal["refuse", "hand-over"]


class TusRefusal(Exception):
    """Status and text."""


@dataclass(frozen=True)
class TusRules:
    expiry: float = 24 * 3600
    """Seconds that an upload's URL lives."""
    chunk: int | None = CHUNK
    """What every chunk but the last must have; None: anything goes, as in storage-api itself."""
    keeps_partial: bool = True
    """Whether what arrived of a chunk whose sender is gone counts. On a part that S3 never got, it does not."""
    locking: Locking = "refuse"
    """Two at once on one upload: 423 for the second, or (storage-api 1.70) the first is ended and the second waits."""
    drain: float = 3.0
    """Seconds that the first is given to come to its end, in a hand-over."""
    patience: float = 5.0
    """Seconds that the second waits, in a hand-over."""


@dataclass(frozen=True)
class Upload:
    """What is known of one from its creation on; how far it is, its file says."""

    version: str
    bucket: str
    key: str
    length: int
    metadata: dict[str, str]
    created: float

    @property
    def id(self) -> str:
        """The last part of its URL."""
        return base64.urlsafe_b64encode(f"{self.bucket}/{self.key}/{self.version}".encode()).decode().rstrip("=")


class Tus:
    def __init__(
        self, objects: Objects, folder: Path, rules: TusRules, *, file_size_limit: int, note: Callable[..., None]
    ) -> None:
        """
        Args:
            note: Is told, by name, `upload` (bucket/key), `offset`, `received` and `kept` of each chunk.
        """
        self._objects = objects
        self._folder = folder
        self._rules = rules
        self._file_size_limit = file_size_limit
        self._note = note
        self._locks: dict[str, _Lock] = {}
        self._guard = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def handle(self, request: Request, upload: str, caller: Caller, now: float) -> Reply:
        """
        Args:
            upload: The last part of the URL; "" to create one.
        """
        try:
            _must_be_well_formed(request)
            match request.method:
                case "POST":
                    reply = self._create(request, caller, now)
                case "HEAD":
                    reply = self._head(request, self._known(upload), now)
                case "PATCH":
                    reply = self._patch(request, self._known(upload), caller, now)
                case "DELETE":
                    reply = self._terminate(request, self._known(upload), caller)
                case _:
                    raise TusRefusal(404, "Not found\n")
        except TusRefusal as refusal:
            status, text = refusal.args
            reply = Reply(status, {"Content-Type": "text/plain;charset=UTF-8"}, text.encode())
        except errors.StorageError as error:
            reply = Reply(error.status, {"Content-Type": "text/plain;charset=UTF-8"}, error.message.encode())
        reply.headers["Tus-Resumable"] = "1.0.0"
        return reply

    def _create(self, request: Request, caller: Caller, now: float) -> Reply:
        if "upload-defer-length" in request.headers:
            raise TusRefusal(*errors.TUS_DEFERRED)
        if "upload-length" not in request.headers:
            raise TusRefusal(*errors.TUS_NO_LENGTH)
        if "upload-metadata" not in request.headers:
            raise TusRefusal(*errors.TUS_NO_METADATA)
        metadata = _metadata(request.headers["upload-metadata"])
        length = int(request.headers["upload-length"])
        version = str(uuid.uuid4())
        upload = Upload(version, metadata.get("bucketName", ""), metadata.get("objectName", ""), length, metadata, now)
        if not VALID_BUCKET.fullmatch(upload.bucket):
            raise errors.invalid_bucket_name()
        must_be_valid_key(upload.key)
        bucket = self._objects.bucket(SERVICE, upload.bucket)
        if length > min(self._file_size_limit, bucket["file_size_limit"] or self._file_size_limit):
            raise TusRefusal(*errors.TUS_TOO_LARGE)
        self._objects.may_upload(caller, _draft(upload), upsert=_upserts(request))
        if "contentType" in metadata:
            must_be_allowed(metadata["contentType"], bucket["allowed_mime_types"])
        must_fit_the_file_system(upload.key)
        self._data(upload).touch()
        self._info(upload.version).write_text(json.dumps(asdict(upload)))
        headers = {"Location": f"http://{request.headers.get('host', '127.0.0.1')}{PATH}/{upload.id}"}
        finished = length == 0
        if request.headers.get("content-type") == OFFSET_STREAM:
            with self._locked(upload, request):
                offset = self._received(request, upload, 0, caller)
            headers["Upload-Offset"] = str(offset)
            finished = offset == length
        elif finished:
            self._finish(upload, caller)
        return Reply(201, headers | self._ending(upload, finished=finished))

    def _head(self, request: Request, upload: Upload, now: float) -> Reply:
        with self._locked(upload, request):
            offset = self._offset(upload, now)
        stringified = ",".join(
            f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in upload.metadata.items()
        )
        return Reply(
            200,
            {
                "Cache-Control": "no-store",
                "Upload-Offset": str(offset),
                "Upload-Length": str(upload.length),
                "Upload-Metadata": stringified,
            },
        )

    def _patch(self, request: Request, upload: Upload, caller: Caller, now: float) -> Reply:
        if "upload-offset" not in request.headers:
            raise TusRefusal(*errors.TUS_NO_OFFSET)
        if "content-type" not in request.headers:
            raise TusRefusal(*errors.TUS_NO_CONTENT_TYPE)
        self._objects.may_upload(caller, _draft(upload), upsert=_upserts(request))
        with self._locked(upload, request):
            offset = self._offset(upload, now)
            if offset != int(request.headers["upload-offset"]):
                raise TusRefusal(*errors.TUS_CONFLICT)
            offset = self._received(request, upload, offset, caller)
        return Reply(204, {"Upload-Offset": str(offset)} | self._ending(upload, finished=offset == upload.length))

    def _terminate(self, request: Request, upload: Upload, caller: Caller) -> Reply:
        self._objects.may_upload(caller, _draft(upload), upsert=_upserts(request))
        with self._locked(upload, request):
            if self._offset(upload, 0.0) == upload.length:
                raise TusRefusal(*errors.TUS_FINISHED)
            self._data(upload).unlink()
            self._info(upload.version).unlink()
        return Reply(204, {})

    def _received(self, request: Request, upload: Upload, offset: int, caller: Caller) -> int:
        """Append the request's body, and make the object when it is whole. Returns the new offset.

        Raises:
            TusRefusal: It is too much or too little; nothing of it counts.
            ClientGone, ConnectionCut: The rest is not to come; what did may count.
        """
        declared = request.headers.get("content-length")
        room = upload.length - offset
        if declared is not None:
            if int(declared) > room:
                raise TusRefusal(*errors.TUS_OVERFLOW)
            self._must_be_a_chunk(int(declared), room)
        received = 0
        kept = False
        try:
            with self._data(upload).open("r+b") as file:
                file.seek(offset)
                for piece in request.pieces():
                    received += len(piece)
                    if received > room:
                        raise TusRefusal(*errors.TUS_TOO_LARGE)
                    file.write(piece)
            self._must_be_a_chunk(received, room)
            kept = True
        except (ClientGone, ConnectionCut):
            kept = self._rules.keeps_partial
            raise
        finally:
            if not kept:
                with self._data(upload).open("r+b") as file:
                    file.truncate(offset)
            self._note(
                upload=f"{upload.bucket}/{upload.key}", offset=offset, received=received, kept=received if kept else 0
            )
            if kept and offset + received == upload.length:
                self._finish(upload, caller)
        return offset + received

    def _must_be_a_chunk(self, size: int, room: int) -> None:
        if self._rules.chunk is not None and size not in (self._rules.chunk, room):
            raise TusRefusal(*errors.TUS_CHUNK_SIZE)

    def _finish(self, upload: Upload, caller: Caller) -> None:
        # The bytes get a name of their own among the objects: this upload's file stays, so that HEAD still finds it.
        target = self._objects.folder / upload.version
        if not target.exists():
            target.hardlink_to(self._data(upload))
        self._objects.complete(caller, _draft(upload), upload.version)

    def _known(self, upload: str) -> Upload:
        try:
            padded = upload + "=" * (-len(upload) % 4)
            _, _, version = base64.urlsafe_b64decode(padded).decode().rpartition("/")
            known = Upload(**json.loads(self._info(str(uuid.UUID(version))).read_text()))
        except (ValueError, binascii.Error, FileNotFoundError):
            raise TusRefusal(*errors.TUS_NOT_FOUND) from None
        return known

    def _offset(self, upload: Upload, now: float) -> int:
        try:
            size = self._data(upload).stat().st_size
        except FileNotFoundError:
            raise TusRefusal(*errors.TUS_NOT_FOUND) from None
        if now > upload.created + self._rules.expiry:
            raise TusRefusal(*errors.TUS_EXPIRED)
        return size

    def _ending(self, upload: Upload, *, finished: bool) -> dict[str, str]:
        if finished:
            return {"Tus-Complete": "1"}
        expires = datetime.fromtimestamp(upload.created + self._rules.expiry, UTC)
        return {"Upload-Expires": format_datetime(expires, usegmt=True)}

    def _data(self, upload: Upload) -> Path:
        return self._folder / upload.version

    def _info(self, version: str) -> Path:
        return self._folder / f"{version}.json"

    @contextmanager
    def _locked(self, upload: Upload, request: Request) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault(upload.version, _Lock())
        if not lock.free.acquire(blocking=False):
            if self._rules.locking == "refuse":
                raise TusRefusal(*errors.TUS_LOCKED)
            lock.end_holder_after(self._rules.drain)
            if not lock.free.acquire(timeout=self._rules.patience):
                raise TusRefusal(*errors.TUS_LOCK_TIMEOUT)
        lock.holder = request
        try:
            yield
        finally:
            lock.holder = None
            lock.free.release()


class _Lock:
    def __init__(self) -> None:
        self.free = threading.Lock()
        self.holder: Request | None = None

    def end_holder_after(self, seconds: float) -> None:
        holder = self.holder
        if holder is not None:
            timer = threading.Timer(seconds, lambda: self.holder is holder and holder.stop_reading())
            timer.daemon = True
            timer.start()


def _must_be_well_formed(request: Request) -> None:
    if "tus-resumable" not in request.headers:
        raise TusRefusal(*errors.TUS_REQUIRED)
    wrong = [name for name in request.headers if not _is_valid(request, name)]
    if wrong:
        raise TusRefusal(400, f"Invalid {' '.join(wrong)}\n")


def _is_valid(request: Request, name: str) -> bool:
    value = request.headers[name]
    match name:
        case "tus-resumable":
            return value == "1.0.0"
        case "upload-offset" | "upload-length":
            return re.fullmatch(r"0|[1-9]\d*", value) is not None
        case "content-type":
            return request.method != "PATCH" or value == OFFSET_STREAM
        case "upload-metadata":
            try:
                _metadata(value)
            except ValueError:
                return False
            return True
        case _:
            return True


def _metadata(header: str) -> dict[str, str]:
    """
    Raises:
        ValueError: A key twice, a value that is no base64.
    """
    parsed: dict[str, str] = {}
    for pair in header.split(","):
        name, _, value = pair.strip().partition(" ")
        if not name or name in parsed:
            raise ValueError(header)
        parsed[name] = base64.b64decode(value, validate=True).decode()
    return parsed


def _upserts(request: Request) -> bool:
    return request.headers.get("x-upsert") == "true"


def _draft(upload: Upload) -> Draft:
    cache = upload.metadata.get("cacheControl", "")
    user_metadata: Any = None
    with suppress(KeyError, ValueError):  # as there: user metadata that cannot be read is none
        user_metadata = json.loads(upload.metadata["metadata"])
    return Draft(
        upload.bucket,
        upload.key,
        upload.metadata.get("contentType", "application/octet-stream"),
        f"max-age={cache}" if re.fullmatch(r"-?\d+", cache) else "no-cache",
        user_metadata,
        upload.length,
    )
