"""The part of storage-api that perdure uses: objects, signed URLs, lists and buckets. Resumable uploads are beside."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, unquote

from servers import gateway_errors as errors
from servers.gateway_buckets import Buckets
from servers.gateway_database import SERVICE, Caller
from servers.gateway_fastify import byte_range, json_body, object_headers, shown
from servers.gateway_http import Reply, Request
from servers.gateway_keys import BadToken, Keys
from servers.gateway_multipart import Form
from servers.gateway_objects import (
    Draft,
    Objects,
    Row,
    javascript_time,
    must_be_allowed,
    must_be_valid_key,
    must_fit_the_file_system,
)
from servers.gateway_tus import Tus

ANONYMOUS = Caller("anon", {"role": "anon"})
OBJECT_FIELDS = (
    "name", "bucket_id", "owner", "owner_id", "version", "id", "updated_at", "created_at", "last_accessed_at",
    "metadata", "user_metadata",
)  # fmt: skip
JWT_WORDS = {
    "empty": "Invalid Compact JWS",
    "parts": "Invalid Compact JWS",
    "algorithm": '"alg" (Algorithm) Header Parameter value not allowed',
    "signature": "signature verification failed",
    "expired": '"exp" claim timestamp check failed',
    "exp": '"exp" claim must be a number',
    "claims": "Invalid JWT",
}


class Storage:
    def __init__(self, objects: Objects, tus: Tus, keys: Keys, *, file_size_limit: int) -> None:
        """
        Args:
            file_size_limit: The project's, in bytes; a bucket's own can only be smaller.
        """
        self._objects = objects
        self._buckets = Buckets(objects)
        self._tus = tus
        self._keys = keys
        self._file_size_limit = file_size_limit

    def handle(self, request: Request, path: str, now: float) -> Reply:
        """`path` is what comes after /storage/v1."""
        try:
            reply = self._handle(request, path, now)
        except errors.StorageError as error:
            reply = error.reply()
        if request.method == "HEAD":
            reply.body = b""
        return reply

    def _handle(self, request: Request, path: str, now: float) -> Reply:
        head, _, rest = path.strip("/").partition("/")
        if head == "upload" and (rest == "resumable" or rest.startswith("resumable/")):
            upload = rest.removeprefix("resumable").strip("/")
            return self._tus.handle(request, upload, self._caller(request, now), now)
        parts = [unquote(part) for part in rest.split("/")] if rest else []
        match (request.method, head, parts):
            case ("GET", "bucket", []):
                return self._buckets.list(self._required(request, now))
            case ("POST", "bucket", []):
                return self._buckets.make(request, self._required(request, now))
            case ("GET", "bucket", [bucket]):
                return self._buckets.get(self._required(request, now), bucket)
            case ("PUT", "bucket", [bucket]):
                return self._buckets.change(request, self._required(request, now), bucket)
            case ("POST", "object", ["list", bucket]):
                return self._list(request, self._required(request, now), bucket)
            case ("POST", "object", ["sign", bucket, *key]) if key:
                return self._sign(request, self._required(request, now), bucket, "/".join(key), now)
            case ("GET" | "HEAD", "object", ["sign", bucket, *key]) if key:
                return self._signed(request, bucket, "/".join(key), now)
            case ("GET", "object", ["info", "authenticated", bucket, *key]) if key:
                return self._info(self._required(request, now), bucket, "/".join(key))
            case ("GET", "object", ["info", bucket, *key]) if key:
                return self._info(self._tolerated(request, now), bucket, "/".join(key))
            case ("GET" | "HEAD", "object", ["authenticated", bucket, *key]) if key:
                return self._get(request, self._required(request, now), bucket, "/".join(key))
            case ("GET" | "HEAD", "object", [bucket, *key]) if key:
                return self._get(request, self._tolerated(request, now), bucket, "/".join(key))
            case ("POST" | "PUT", "object", [bucket, *key]) if key:
                return self._upload(request, self._required(request, now), bucket, "/".join(key))
            case ("DELETE", "object", [bucket]):
                return self._remove(request, self._required(request, now), bucket)
            case ("DELETE", "object", [bucket, *key]):
                return self._remove_one(self._required(request, now), bucket, "/".join(key))
            case _:
                return errors.no_storage_route(request.method, request.target)

    # ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────

    def _caller(self, request: Request, now: float) -> Caller:
        try:
            claims = self._keys.read(self._keys.authorization(request.headers) or "", now=now, leeway=0)
        except BadToken as error:
            raise errors.access_denied(JWT_WORDS[error.reason]) from error
        return Caller(str(claims.get("role", "anon")), claims)

    def _required(self, request: Request, now: float) -> Caller:
        if self._keys.authorization(request.headers) is None:
            raise errors.invalid_request("headers must have required property 'authorization'")
        return self._caller(request, now)

    def _tolerated(self, request: Request, now: float) -> Caller | None:
        """None for whoever has no good token: then only a public bucket is there."""
        with suppress(errors.StorageError):
            return self._caller(request, now)
        return None

    # ── objects ──────────────────────────────────────────────────────────────────────────────────────────────

    def _upload(self, request: Request, caller: Caller, bucket_id: str, key: str) -> Reply:
        bucket = self._objects.bucket(SERVICE, bucket_id)
        limit = min(self._file_size_limit, bucket["file_size_limit"] or self._file_size_limit)
        content_type = request.headers.get("content-type", "application/octet-stream")
        upsert = request.method == "PUT" or request.headers.get("x-upsert") == "true"
        declared = request.headers.get("content-length")
        size = int(declared) if declared is not None else None
        pieces: Iterable[bytes]
        if content_type.startswith("multipart/form-data"):
            form = Form(request).open()
            media_type = form.fields.get("contentType") or form.media_type
            cache = form.fields.get("cacheControl")
            cache = f"max-age={cache}" if cache else "no-cache"
            metadata = _parsed(form.fields.get("metadata"))
            pieces = form.pieces()
        else:
            if not re.match(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", content_type):
                raise errors.invalid_content_type()
            media_type, metadata = content_type, None
            cache = request.headers.get("cache-control", "no-cache")
            pieces = request.pieces()
        must_be_allowed(media_type, bucket["allowed_mime_types"])
        if size is not None and size > limit and not content_type.startswith("multipart/form-data"):
            raise errors.too_large()
        must_be_valid_key(key)
        draft = Draft(bucket_id, key, media_type, cache, metadata, size)
        self._objects.may_upload(caller, draft, upsert=upsert)
        must_fit_the_file_system(key)
        row = self._objects.store(caller, draft, pieces, limit)
        return errors.json_reply(200, {"Id": str(row["id"]), "Key": f"{bucket_id}/{key}"})

    def _get(self, request: Request, caller: Caller | None, bucket_id: str, key: str) -> Reply:
        row = self._readable(caller, bucket_id, key)
        if request.method == "HEAD":
            return Reply(200, object_headers(row) | {"Content-Length": str(row["metadata"]["size"])})
        return self._rendered(request, row)

    def _info(self, caller: Caller | None, bucket_id: str, key: str) -> Reply:
        row = self._readable(caller, bucket_id, key)
        metadata = row["metadata"] or {}
        return errors.json_reply(
            200,
            {
                "id": str(row["id"]),
                "name": row["name"],
                "version": row["version"],
                "bucket_id": row["bucket_id"],
                "size": metadata.get("size"),
                "content_type": metadata.get("mimetype"),
                "cache_control": metadata.get("cacheControl"),
                "etag": metadata.get("eTag"),
                "metadata": row["user_metadata"],
                "last_modified": javascript_time(row["updated_at"]),
                "created_at": javascript_time(row["created_at"]),
            },
        )

    def _readable(self, caller: Caller | None, bucket_id: str, key: str) -> Row:
        # Without a good token a private bucket is not there: a bad key reads as "404 Bucket not found".
        bucket = self._objects.bucket(SERVICE, bucket_id)
        if bucket["public"]:
            return self._objects.find(SERVICE, bucket_id, key)
        if caller is None:
            raise errors.no_bucket()
        return self._objects.find(caller, bucket_id, key)

    def _rendered(self, request: Request, row: Row, *, expires: str | None = None) -> Reply:
        path = self._objects.path(row)
        if not path.exists():
            raise errors.StorageError(404, "NoSuchKey", "The resource was not found", "Not found")
        size = path.stat().st_size
        headers = object_headers(row)
        if expires is not None:
            headers["Expires"] = expires
        if (name := request.query.get("download")) is not None:
            name = quote(name, safe="")
            headers["Content-Disposition"] = (
                f"attachment; filename={name}; filename*=UTF-8''{name}" if name else "attachment;"
            )
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Reply(304, headers)
        status, start, length = 200, 0, size
        if (asked := request.headers.get("range")) is not None:
            start, length = byte_range(asked, size)
            status = 206
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
        return Reply(status, headers | {"Content-Length": str(length)}, self._objects.read(row, start, length))

    def _remove(self, request: Request, caller: Caller, bucket_id: str) -> Reply:
        body = json_body(request)
        if not isinstance(body.get("prefixes"), list):
            raise errors.invalid_request("body must have required property 'prefixes'")
        if not body["prefixes"]:
            raise errors.invalid_request("body/prefixes must NOT have fewer than 1 items")
        gone = self._objects.remove(caller, bucket_id, list(map(str, body["prefixes"])))
        return errors.json_reply(200, [shown(row, OBJECT_FIELDS) for row in gone])

    def _remove_one(self, caller: Caller, bucket_id: str, key: str) -> Reply:
        self._objects.find(SERVICE, bucket_id, key)
        if not self._objects.remove(caller, bucket_id, [key]):
            raise errors.access_denied("Access denied")
        return errors.json_reply(200, {"message": "Successfully deleted"})

    def _list(self, request: Request, caller: Caller, bucket_id: str) -> Reply:
        body = json_body(request)
        if "prefix" not in body:
            raise errors.invalid_request("body must have required property 'prefix'")
        prefix = str(body["prefix"])
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        by = body.get("sortBy") or {}
        rows = self._objects.rows(
            caller,
            "select * from storage.search(%s, %s, %s, 1, %s, %s, %s, %s)",
            prefix,
            bucket_id,
            int(body.get("limit", 100)),
            int(body.get("offset", 0)),
            str(body.get("search") or ""),
            str(by.get("column", "name")),
            str(by.get("order", "asc")),
        )
        listed = ("name", "id", "updated_at", "created_at", "last_accessed_at", "metadata")
        return errors.json_reply(200, [shown(row, listed) for row in rows])

    # ── signed URLs ──────────────────────────────────────────────────────────────────────────────────────────

    def _sign(self, request: Request, caller: Caller, bucket_id: str, key: str, now: float) -> Reply:
        body = json_body(request)
        if "expiresIn" not in body:
            raise errors.invalid_request("body must have required property 'expiresIn'")
        try:
            seconds = int(body["expiresIn"])  # storage3 sends a string, which the real one coerces, too
        except (TypeError, ValueError):
            raise errors.invalid_request("body/expiresIn must be integer") from None
        if seconds < 1:
            raise errors.invalid_request("body/expiresIn must be >= 1")
        self._objects.find(caller, bucket_id, key)
        claims = {"url": f"{bucket_id}/{key}", "scope": "download", "iat": int(now), "exp": int(now) + seconds}
        return errors.json_reply(
            200, {"signedURL": f"/object/sign/{bucket_id}/{key}?token={self._keys.signed(claims)}"}
        )

    def _signed(self, request: Request, bucket_id: str, key: str, now: float) -> Reply:
        if "token" not in request.query:
            raise errors.invalid_request("querystring must have required property 'token'")
        try:
            claims = self._keys.read(request.query["token"], now=now, leeway=0)
        except BadToken as error:
            raise errors.invalid_jwt(JWT_WORDS[error.reason]) from error
        if claims.get("scope") != "download":
            raise errors.invalid_signature("Token is not scoped for download")
        if claims.get("url") != f"{bucket_id}/{key}":
            raise errors.invalid_signature()
        expires = format_datetime(datetime.fromtimestamp(claims["exp"], UTC), usegmt=True)
        return self._rendered(request, self._objects.find(SERVICE, bucket_id, key), expires=expires)


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None
