"""Files in a bucket of Supabase Storage, private, under keys that name their content."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import httpx
from storage3.exceptions import StorageApiError

from perdure.errors import FileMissing, StoreError, StoreUnavailable
from perdure.middleware.persistence.file_stores.keys import checked
from perdure.middleware.persistence.file_stores.supabase.answers import only_of_storage, raise_if_refused
from perdure.middleware.persistence.file_stores.supabase.download import Download
from perdure.middleware.persistence.file_stores.supabase.resumable import CHUNK, AlreadyThere, ResumableUploads
from perdure.middleware.persistence.supabase_api.asking import asked
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.supabase_api.deadline import within

__all__ = ["SupabaseFileStore"]

T = TypeVar("T")

_ASK_AGAIN_AFTER = 300.0
"""Seconds for which the bucket's limit and what it holds are taken to be as they were."""


class SupabaseFileStore:
    """Makes no connection before the first use."""

    one_copy = False

    def __init__(self, api: SupabaseApi, bucket: str, folder: Path, *, timeout: float = 60.0) -> None:
        """`folder`: ours, for notes on uploads. `timeout`: seconds of one file's upload, or download."""
        self.bucket = bucket
        self._api = api
        self._timeout = timeout
        self._uploads = ResumableUploads(api, bucket, folder / "uploads")
        self._used: tuple[float, int] | None = None
        self._limit: tuple[float, int | None] | None = None

    def put(self, key: str, snapshot: Path, *, media_type: str) -> None:
        checked(key)
        deadline = time.monotonic() + self._timeout
        try:
            with snapshot.open("rb") as content:
                size = os.fstat(content.fileno()).st_size
                if size > CHUNK:
                    self._uploads.send(key, content, size, media_type=media_type, deadline=deadline)
                    self._look_whether_it_is_there(key, size, deadline)
                else:
                    self._asked(lambda: self._upload(key, content, media_type), deadline)
        except AlreadyThere:
            if (there := self._size_of(key, deadline)) is None:
                raise self._not_there(key) from None
            if there != size:
                raise StoreUnavailable(
                    f"storage://{self.bucket}/{key} has {there} bytes where {size} belong: somebody else wrote it.",
                    remedy="delete that object in the dashboard, under Storage.",
                ) from None
            return
        except StoreError:
            raise  # StoreTimeout is an OSError, too.
        except OSError as error:
            raise StoreUnavailable(
                f"The file {snapshot} cannot be read: {error.strerror}.", remedy="see to the data directory."
            ) from error
        if self._used is not None:
            self._used = self._used[0], self._used[1] + size

    @contextmanager
    def read(self, key: str) -> Iterator[BinaryIO]:
        checked(key)
        deadline = time.monotonic() + self._timeout
        response = self._asked(lambda: self._opened(key), deadline)
        try:
            with within(deadline):
                yield cast(BinaryIO, BufferedReader(Download(response, self._api.where), 1 << 16))
        finally:
            response.close()

    def holds(self, key: str) -> bool:
        checked(key)
        return self._size_of(key, time.monotonic() + self._timeout) is not None

    def used_bytes(self) -> int:
        now = time.monotonic()
        if self._used is None or now - self._used[0] > _ASK_AGAIN_AFTER:
            status = self._asked(
                lambda: self._api.client.rpc("store_status", {"bucket": self.bucket}).execute().data,
                now + self._timeout,
            )
            if not isinstance(status, dict) or not isinstance(used := status.get("stored_bytes"), int):
                raise StoreUnavailable(
                    f"The Supabase project {self._api.where} did not say how much is kept in it.",
                    remedy="look at what stands between: a proxy, a gateway of another version.",
                )
            self._used = now, used
        return self._used[1]

    def remove(self, key: str, *, unused_since: datetime) -> bool:
        checked(key)
        deadline = time.monotonic() + self._timeout
        try:
            about = self._asked(lambda: self._api.client.storage.from_(self.bucket).info(key), deadline)
        except FileMissing:
            return True
        if datetime.fromisoformat(about["created_at"]) >= unused_since:
            return False
        self._asked(lambda: self._api.client.storage.from_(self.bucket).remove([key]), deadline)
        if self._size_of(key, deadline) is not None:  # What may not be removed is left there without a word.
            raise StoreUnavailable(
                f"storage://{self.bucket}/{key} cannot be removed.",
                remedy="use the project's secret or service_role key; look at the policies of storage.objects.",
            )
        return True

    def most_bytes(self) -> int | None:
        now = time.monotonic()
        if self._limit is None or now - self._limit[0] > _ASK_AGAIN_AFTER:
            bucket = self._asked(lambda: self._api.client.storage.get_bucket(self.bucket), now + self._timeout)
            self._limit = now, bucket.file_size_limit
        return self._limit[1]

    def signed_url(self, key: str, *, seconds: int) -> str | None:
        checked(key)
        signed = self._asked(
            lambda: self._api.client.storage.from_(self.bucket).create_signed_url(key, seconds),
            time.monotonic() + self._timeout,
        )
        return signed["signedURL"]

    def _upload(self, key: str, content: BufferedReader, media_type: str) -> None:
        content.seek(0)
        try:
            self._api.client.storage.from_(self.bucket).upload(
                key, content, {"content-type": media_type, "upsert": "false"}
            )
        except StorageApiError as error:
            if str(error.status) == "409":
                raise AlreadyThere from None
            raise

    def _look_whether_it_is_there(self, key: str, size: int, deadline: float) -> None:
        """A server that died between the last byte and its record says that the upload is complete."""
        if self._size_of(key, deadline) != size:
            raise self._not_there(key)

    def _not_there(self, key: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"storage://{self.bucket}/{key} was uploaded, and is not there.",
            remedy="give it out again; look at the project's storage logs if it lasts.",
        )

    def _opened(self, key: str) -> httpx.Response:
        request = self._api.http.build_request(
            "GET",
            f"{self._api.url}/storage/v1/object/authenticated/{self.bucket}/{key}",
            headers={**self._api.headers, "Accept-Encoding": "identity"},
        )
        response = self._api.http.send(request, stream=True)
        try:
            raise_if_refused(response)
        except BaseException:
            response.close()
            raise
        return response

    def _size_of(self, key: str, deadline: float) -> int | None:
        try:
            found = self._asked(lambda: self._api.client.storage.from_(self.bucket).info(key), deadline)
        except FileMissing:
            return None
        return int(found["size"])

    def _asked(self, work: Callable[[], T], deadline: float) -> T:
        return asked(self._api, lambda: only_of_storage(work), deadline=deadline)
