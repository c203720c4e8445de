"""Uploads that go on where they were cut off: TUS 1.0.0 as Supabase has it, in chunks of 6 MiB.

By hand over httpx: no maintained client of TUS has time-outs. Which upload belongs to a key is noted in a small file,
so that a process that starts again goes on with what the one before it began.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import httpx
from storage3.exceptions import StorageApiError

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.file_stores.supabase.answers import raise_if_refused
from perdure.middleware.persistence.file_stores.supabase.one_at_a_time import one_at_a_time
from perdure.middleware.persistence.supabase_api.asking import asked
from perdure.middleware.persistence.supabase_api.client import SupabaseApi

__all__ = ["CHUNK", "AlreadyThere", "ResumableUploads"]

CHUNK = 6 * 1024 * 1024
"""Bytes: Supabase takes no other size, but for the last chunk."""

_PIECE = 1 << 18
_FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds after which Supabase has forgotten an upload."""

_LIVES = _FORGOTTEN_AFTER - 3600.0
"""Seconds for which going on with one is worth a try."""

_BEGINNINGS = 3
"""Of one upload in one call: each but the last was forgotten by the server."""

_PATH = "/upload/resumable/"


class AlreadyThere(Exception):
    """There is an object under this key."""


class ResumableUploads:
    def __init__(self, api: SupabaseApi, bucket: str, notes: Path) -> None:
        """`notes`: a folder of ours."""
        self._api = api
        self._bucket = bucket
        self._notes = notes

    def send(self, key: str, content: BinaryIO, size: int, *, media_type: str, deadline: float) -> None:
        """Upload all of `content`; durable on return.

        Raises:
            AlreadyThere: There is an object under this key; whether it is this content, its size tells.
            StoreError: It was refused, or cut off for longer than the deadline: a later call goes on from there.
        """
        # Of this project alone: an upload that was begun in another one is not here.
        name = hashlib.sha256(f"{self._api.url}/{self._bucket}/{key}".encode()).hexdigest()
        note = self._notes / f"{name}.json"
        self._notes.mkdir(parents=True, exist_ok=True, mode=0o700)
        with one_at_a_time(self._notes / f"{name}.lock", until=deadline):
            self._remove_old_notes()
            self._send(note, key, content, size, media_type, deadline)

    def _send(self, note: Path, key: str, content: BinaryIO, size: int, media_type: str, deadline: float) -> None:
        for _ in range(_BEGINNINGS):
            upload_id = _noted(note, size)
            if upload_id is None:
                upload_id = asked(self._api, lambda: self._begun(key, size, media_type), deadline=deadline)
                _write(note, upload_id, size)
            address = f"{self._api.url}/storage/v1{_PATH}{upload_id}"
            try:
                _Upload(self._api, address, content, size).finish(deadline)
            except _Forgotten:
                # Or it has ended, and its last answer was lost: then there is an object, at which a new one is refused.
                note.unlink(missing_ok=True)
            except AlreadyThere:
                note.unlink(missing_ok=True)
                raise
            else:
                note.unlink(missing_ok=True)
                return
        raise StoreUnavailable(
            f"The Supabase project {self._api.where} forgot {_BEGINNINGS} uploads of one file while they went on.",
            remedy="give it out again; look at the project's storage logs if it lasts.",
        )

    def _remove_old_notes(self) -> None:
        """Those of uploads that nobody has gone on with."""
        for path in self._notes.iterdir():
            with suppress(FileNotFoundError):  # another process has done the same
                if time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER:
                    path.unlink()

    def _begun(self, key: str, size: int, media_type: str) -> str:
        """The id of a new upload."""
        named = {"bucketName": self._bucket, "objectName": key, "contentType": media_type, "cacheControl": "3600"}
        metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in named.items())
        response = _request(
            self._api,
            "POST",
            f"{self._api.url}/storage/v1{_PATH.rstrip('/')}",
            {"Upload-Length": str(size), "Upload-Metadata": metadata},
        )
        # Whatever host it names (a gateway's inner one, or a stranger's): the key goes to the project's own address.
        _, _, upload_id = response.headers.get("location", "").partition(_PATH)
        if not upload_id:
            raise StorageApiError("The upload was given no address", "", 502)
        return str(upload_id)


class _Upload:
    """One upload on its way."""

    def __init__(self, api: SupabaseApi, address: str, content: BinaryIO, size: int) -> None:
        self._api = api
        self._address = address
        self._content = content
        self._size = size
        self._done: int | None = None
        """Bytes that are there; None while that has to be asked."""
        self._furthest = -1
        """Bytes that were there when it was asked last."""

    def finish(self, deadline: float) -> None:
        """Send what is missing.

        Raises:
            AlreadyThere: Somebody else has finished one under the same key.
            _Forgotten: The server knows no such upload any more.
        """
        while self._done is None or self._done < self._size:
            asked(self._api, self._one_step, deadline=deadline)

    def _one_step(self) -> None:
        if self._done is None:
            self._done = self._offset(self._request("HEAD", {}))
            if self._done > self._furthest:
                self._furthest = self._done
                return
            # What was sent since did not count. Sent again here, it is one more attempt of those that have an end.
        at, self._done = self._done, None  # Cut off from here on, it is not known how much arrived.
        length = min(CHUNK, self._size - at)
        headers = {
            "Upload-Offset": str(at),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(length),
        }
        self._done = self._offset(self._request("PATCH", headers, self._pieces(at, length)))

    def _request(self, method: str, headers: dict[str, str], content: Iterator[bytes] | None = None) -> httpx.Response:
        return _request(self._api, method, self._address, headers, content)

    def _pieces(self, at: int, length: int) -> Iterator[bytes]:
        self._content.seek(at)
        while length and (piece := self._content.read(min(_PIECE, length))):
            length -= len(piece)
            yield piece

    def _offset(self, response: httpx.Response) -> int:
        offset = response.headers.get("upload-offset", "")
        if not offset.isdecimal() or int(offset) > self._size:
            raise StorageApiError(f"The upload has no offset that could be ({offset[:20]!r})", "", 502)
        return int(offset)


class _Forgotten(Exception):
    """The server knows no such upload: it has ended, or is older than a day."""


def _request(
    api: SupabaseApi, method: str, url: str, headers: dict[str, str], content: Iterator[bytes] | None = None
) -> httpx.Response:
    response = api.http.request(
        method, url, headers={**api.headers, "Tus-Resumable": "1.0.0", **headers}, content=content
    )
    if method != "POST" and response.status_code in (404, 410):
        raise _Forgotten
    if response.status_code == 409 and "exist" in response.text.lower():
        raise AlreadyThere
    raise_if_refused(response)
    return response


def _noted(note: Path, size: int) -> str | None:
    """The id of an upload that was begun before and may still live."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["size"] == size and 0 <= time.time() - found["begun_at"] < _LIVES:
            return str(found["upload"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # Without a note, or with one that is none, it begins anew.
    return None


def _write(note: Path, upload_id: str, size: int) -> None:
    half = note.with_suffix(".part")
    half.write_text(json.dumps({"upload": upload_id, "size": size, "begun_at": time.time()}), encoding="utf-8")
    half.replace(note)
