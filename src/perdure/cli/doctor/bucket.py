"""Looks at the bucket of Supabase Storage, by a file of its own too."""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from perdure.cli.doctor.finding import Finding, Verdict, looked
from perdure.errors import FileMissing, PerdureError, StoreError
from perdure.middleware.persistence.ports import FileStore
from perdure.middleware.persistence.supabase_api.asking import asked
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.settings import Settings

__all__ = ["examined"]

_SECONDS = 15.0


def examined(api: SupabaseApi, settings: Settings, file_store: FileStore, *, fix: bool) -> Iterator[Finding]:
    found = looked("bucket", lambda: _bucket(api, settings.bucket))
    if found.verdict is not Verdict.OK and fix:
        found = looked("bucket", lambda: _mended(api, settings.bucket))
    yield found
    if found.verdict is Verdict.FAILED:
        return
    yield looked("bucket's limit", lambda: _limit(file_store, settings))
    yield looked("quota", lambda: _quota(file_store, settings))
    yield looked("upload and download", lambda: _uploaded_and_read(api, settings.bucket, file_store))


def _bucket(api: SupabaseApi, bucket: str) -> Finding:
    there = asked(api, lambda: api.client.storage.get_bucket(bucket), deadline=time.monotonic() + _SECONDS)
    if there.public:
        return Finding(
            "bucket",
            Verdict.FAILED,
            f"{bucket} is public: anybody who has a file's address may read it.",
            "make it private in the dashboard, under Storage; or run `perdure doctor --fix`.",
        )
    return Finding("bucket", Verdict.OK, f"{bucket} is there and private.")


def _mended(api: SupabaseApi, bucket: str) -> Finding:
    deadline = time.monotonic() + _SECONDS
    try:
        asked(api, lambda: api.client.storage.update_bucket(bucket, {"public": False}), deadline=deadline)
    except StoreError:
        asked(
            api,
            lambda: api.client.storage.create_bucket(bucket, options={"public": False, "file_size_limit": 52_428_800}),
            deadline=deadline,
        )
    found = _bucket(api, bucket)
    return Finding("bucket", Verdict.FIXED, found.what) if found.verdict is Verdict.OK else found


def _limit(file_store: FileStore, settings: Settings) -> Finding:
    most, wanted = file_store.most_bytes(), settings.policy("*").max_file_bytes
    if most is None or most >= wanted:
        limit = "Files of any size" if most is None else f"Files of up to {decimal(most)}"
        return Finding("bucket's limit", Verdict.OK, f"{limit}; max_file_bytes is {decimal(wanted)}.")
    return Finding(
        "bucket's limit",
        Verdict.WARNING,
        f"Files of up to {decimal(most)}, less than max_file_bytes ({decimal(wanted)}): larger ones keep their paths.",
        "raise the bucket's limit in the dashboard, under Storage, or lower max_file_bytes.",
    )


def _quota(file_store: FileStore, settings: Settings) -> Finding:
    used, most = file_store.used_bytes(), settings.max_total_bytes
    what = f"{decimal(used)} of {decimal(most)} (max_total_bytes) are used."
    if used < most * 0.9:
        return Finding("quota", Verdict.OK, what)
    return Finding("quota", Verdict.WARNING, what, "raise max_total_bytes, or let old conversations expire.")


def _uploaded_and_read(api: SupabaseApi, bucket: str, file_store: FileStore) -> Finding:
    content = b"Is this kept?\n"
    key = f"perdure-doctor/{hashlib.sha256(content).hexdigest()}/doctor.txt"
    try:
        with tempfile.TemporaryDirectory(prefix="perdure-doctor-") as folder:
            snapshot = Path(folder, "doctor.txt")
            snapshot.write_bytes(content)
            file_store.put(key, snapshot, media_type="text/plain")
        with file_store.read(key) as source:
            read = source.read()
    finally:
        asked(
            api,
            lambda: api.client.storage.from_(bucket).remove([key]),
            deadline=time.monotonic() + _SECONDS,
        )
    if read != content:
        raise PerdureError("What was downloaded is not what was uploaded.", remedy="look at what stands between.")
    try:
        with file_store.read(key):
            pass
    except FileMissing:
        return Finding("upload and download", Verdict.OK, "A file was uploaded, read back equal, and deleted.")
    raise PerdureError(
        "The file that was uploaded could not be deleted again.", remedy=f"delete {key} in the dashboard."
    )
