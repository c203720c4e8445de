"""Where storage-api keeps what it stores: rows in Postgres under the caller's role, bytes in a folder by version."""

import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from servers import gateway_errors as errors
from servers.gateway_database import SERVICE, Caller, Connection, DatabaseAway, Pool, PoolExhausted

VALID_KEY = re.compile(r"[A-Za-z0-9_/!.*'() &$=@;:+,?-]+")
VALID_BUCKET = re.compile(r"[A-Za-z0-9_!.*'() &$=@;:+,?-]{1,100}")
LONGEST_SEGMENT = 255
PIECE = 65536
Row = dict[str, Any]

SETTINGS = {"statement_timeout": "30s", "storage.allow_delete_query": "true"}


@dataclass(frozen=True)
class Draft:
    """An object whose bytes are not there yet."""

    bucket: str
    key: str
    media_type: str
    cache_control: str
    user_metadata: Any = None
    size: int | None = None


class Objects:
    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool = pool
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def as_caller(self, caller: Caller) -> Iterator[Connection]:
        """One transaction, its errors in storage-api's words.

        Raises:
            StorageError
        """
        try:
            with self._pool.transaction(caller, SETTINGS) as connection:
                yield connection
        except PoolExhausted as error:
            raise errors.storage_pool_exhausted() from error
        except DatabaseAway as error:
            raise errors.internal() from error
        except psycopg.Error as error:
            raise errors.storage_from_postgres(error) from error

    def rows(self, caller: Caller, statement: str, *values: Any) -> list[Row]:
        with self.as_caller(caller) as connection:
            return connection.cursor(row_factory=dict_row).execute(statement, values).fetchall()

    def bucket(self, caller: Caller, bucket: str) -> Row:
        """
        Raises:
            StorageError: There is none, or the caller may not see it.
        """
        for row in self.rows(caller, "select * from storage.buckets where id = %s", bucket):
            return row
        raise errors.no_bucket()

    def find(self, caller: Caller, bucket: str, key: str) -> Row:
        must_be_valid_key(key)
        for row in self.rows(caller, "select * from storage.objects where name = %s and bucket_id = %s", key, bucket):
            return row
        raise errors.no_object()

    def path(self, row: Row) -> Path:
        return self.folder / str(row["version"])

    def may_upload(self, caller: Caller, draft: Draft, *, upsert: bool) -> None:
        """Whether row level security lets the caller make this row: by making it, and rolling back.

        Raises:
            StorageError: 403, or 409 unless `upsert`.
        """
        metadata = {"mimetype": draft.media_type, "contentLength": draft.size}
        statement = UPSERT if upsert else INSERT
        try:
            with self.as_caller(caller) as connection:
                connection.execute(statement, _values(draft, "1", caller, metadata))
                raise _RolledBack
        except _RolledBack:
            pass
        except errors.StorageError as error:
            raise (errors.key_exists() if error.code == "ResourceAlreadyExists" else error) from error

    def store(self, caller: Caller, draft: Draft, pieces: Iterable[bytes], limit: int) -> Row:
        """Write the bytes, then the row. Nothing stays of what does not arrive whole.

        Raises:
            StorageError: More than `limit` bytes.
        """
        version = str(uuid.uuid4())
        path = self.folder / version
        try:
            with path.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                    if file.tell() > limit:
                        raise errors.too_large()
            return self.complete(caller, draft, version)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def complete(self, caller: Caller, draft: Draft, version: str) -> Row:
        """Make the row for bytes that are there, as the service role; an older version's bytes go away."""
        path = self.folder / version
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        status = path.stat()
        metadata = {
            "eTag": f'"{digest}"',
            "size": status.st_size,
            "mimetype": draft.media_type,
            "cacheControl": draft.cache_control,
            "lastModified": javascript_time(datetime.fromtimestamp(status.st_mtime, UTC)),
            "contentLength": status.st_size,
            "httpStatusCode": 200,
        }
        with self.as_caller(SERVICE) as connection:
            connection.execute("set local lock_timeout = '5s'")
            connection.execute("select pg_advisory_xact_lock(hashtext(%s))", [f"{draft.bucket}/{draft.key}"])
            cursor = connection.cursor(row_factory=dict_row)
            found = "select version from storage.objects where bucket_id = %s and name = %s for update"
            old = cursor.execute(found, [draft.bucket, draft.key]).fetchone()
            row = cursor.execute(UPSERT, _values(draft, version, caller, metadata)).fetchone()
        if old is not None and old["version"] != version:
            (self.folder / old["version"]).unlink(missing_ok=True)
        assert row is not None
        return row

    def remove(self, caller: Caller, bucket: str, keys: list[str]) -> list[Row]:
        """Those of `keys` that are there and that the caller may delete."""
        statement = "delete from storage.objects where bucket_id = %s and name = any(%s) returning *"
        gone = self.rows(caller, statement, bucket, keys)
        for row in gone:
            self.path(row).unlink(missing_ok=True)
        return gone

    def read(self, row: Row, start: int, size: int) -> Iterator[bytes]:
        with self.path(row).open("rb") as file:
            file.seek(start)
            while size and (piece := file.read(min(PIECE, size))):
                size -= len(piece)
                yield piece


def must_be_valid_key(key: str) -> None:
    """
    Raises:
        StorageError: InvalidKey, by the characters; or as the file system would refuse it.
    """
    if not VALID_KEY.fullmatch(key):
        raise errors.invalid_key(key)


def must_fit_the_file_system(key: str) -> None:
    for segment in key.split("/"):
        if segment in (".", ".."):
            raise errors.invalid_key(key, " contains dot path segment")
        if len(segment.encode()) > LONGEST_SEGMENT:
            raise errors.name_too_long(segment)


def must_be_allowed(media_type: str, allowed: list[str] | None) -> None:
    if not allowed:
        return
    kind, _, subtype = media_type.partition("/")
    for pattern in allowed:
        wanted, _, wanted_subtype = pattern.partition("/")
        if wanted == kind and wanted_subtype in ("*", subtype):
            return
    raise errors.invalid_type(media_type)


def javascript_time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


INSERT = """
insert into storage.objects (bucket_id, name, owner, owner_id, version, metadata, user_metadata)
values (%s, %s, %s, %s, %s, %s, %s)"""

# RETURNING and DO UPDATE: so it needs policies for select and update, too.
UPSERT = f"""{INSERT}
on conflict (name, bucket_id) do update set metadata = excluded.metadata, user_metadata = excluded.user_metadata,
  version = excluded.version, owner = excluded.owner, owner_id = excluded.owner_id
returning *"""


class _RolledBack(Exception):
    pass


def _values(draft: Draft, version: str, caller: Caller, metadata: Row) -> list[Any]:
    subject = caller.subject
    try:
        owner = uuid.UUID(subject) if subject else None
    except ValueError:
        owner = None
    user_metadata = None if draft.user_metadata is None else Jsonb(draft.user_metadata)
    return [draft.bucket, draft.key, owner, subject, version, Jsonb(metadata), user_metadata]
