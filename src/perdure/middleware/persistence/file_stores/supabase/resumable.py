"""Uploads that go on where they were cut off: TUS 1.0.0 as Supabase has it, in chunks of 6 MiB.

By hand over httpx: no maintained client of TUS has time-outs. Which upload belongs to a key is noted in a small file,
so that a process that starts again goes on with what the one before it began.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx
from storage3.exceptions import StorageApiError

from perdure.middleware.persistence.file_stores.supabase.answers import raise_if_refused
from perdure.middleware.persistence.supabase_api.asking import asked
from perdure.middleware.persistence.supabase_api.client import SupabaseApi

__all__ = ["CHUNK", "AlreadyThere", "ResumableUploads"]

CHUNK = 6 * 1024 * 1024
"""Bytes: Supabase takes no other size, but for the last chunk."""

_PIECE = 1 << 18
_LIVES = 23 * 3600.0
"""Seconds. Supabase forgets an upload after 24 hours."""

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
        note = self._notes / f"{hashlib.sha256(f'{self._bucket}/{key}'.encode()).hexdigest()}.json"
        address = _noted(note, size)
        if address is not None and self._ended(address, content, size, deadline):
            note.unlink(missing_ok=True)
            return
        address = asked(self._api, lambda: self._created(key, size, media_type), deadline=deadline)
        _write(note, address, size)
        if not self._ended(address, content, size, deadline):
            # Forgotten in the middle of it: it has ended, its last answer was lost, and this is how that looks.
            raise AlreadyThere
        note.unlink(missing_ok=True)

    def _ended(self, address: str, content: BinaryIO, size: int, deadline: float) -> bool:
        """Send what is missing. False: the server knows no such upload (any more)."""
        try:
            _Upload(self._api, address, content, size).finish(deadline)
        except _Forgotten:
            return False
        return True

    def _created(self, key: str, size: int, media_type: str) -> str:
        """The address of a new upload."""
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
        return f"{self._api.url}/storage/v1{_PATH}{upload_id}"


class _Upload:
    """One upload on its way."""

    def __init__(self, api: SupabaseApi, address: str, content: BinaryIO, size: int) -> None:
        self._api = api
        self._address = address
        self._content = content
        self._size = size
        self._done: int | None = None
        """Bytes that are there; None while that has to be asked."""

    def finish(self, deadline: float) -> None:
        """
        Raises:
            AlreadyThere: Somebody else has finished one under the same key.
            _Forgotten: The server knows no such upload any more.
        """
        while self._done is None or self._done < self._size:
            asked(self._api, self._one_step, deadline=deadline)

    def _one_step(self) -> None:
        if self._done is None:
            self._done = self._offset(self._request("HEAD", {}))
            return
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
    """The address of an upload that was begun before and may still live."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["size"] == size and 0 <= time.time() - found["began_at"] < _LIVES:
            return str(found["address"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # Without a note, or with one that is none, it begins anew.
    return None


def _write(note: Path, address: str, size: int) -> None:
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    half = note.with_suffix(".part")
    half.write_text(json.dumps({"address": address, "size": size, "began_at": time.time()}), encoding="utf-8")
    half.replace(note)
