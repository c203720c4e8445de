"""The recorded replies: what PostgREST 14, storage-api 1.70 and the gateway before them say when they refuse.

Read in their sources: PostgREST v14.17 and v12.2.12 (Error.hs), storage-api v1.70.6 (internal/errors,
storage/database/errors.ts), @tus/server 2.4.2 (utils/constants.ts). What is a guess says so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.errors import Error as PostgresError
from servers.gateway_http import Reply

JSON = "application/json; charset=utf-8"


def json_reply(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Reply:
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Reply(status, {"Content-Type": JSON, **(headers or {})}, body)


# ── the gateway in front ─────────────────────────────────────────────────────────────────────────────────────
# A bad key has no `code`, and hosted and self-hosted differ in words only.

NO_KEY = {"message": "No API key found in request", "hint": "No `apikey` request header or url param was found."}
BAD_KEY = {"message": "Invalid API key", "hint": "Double check your Supabase `anon` or `service_role` API key."}
NO_ROUTE = {"message": "no Route matched with those values"}
BODY_TOO_LARGE = b"<html><head><title>413 Request Entity Too Large</title></head></html>"
"""Which proxy refuses a huge body, and in what words, is a guess; that it is HTML and 413 is not."""

# ── PostgREST ────────────────────────────────────────────────────────────────────────────────────────────────

# Class or whole SQLSTATE to HTTP status; the longest prefix wins. Everything else is 400.
REST_STATUS = {
    "08": 503, "09": 500, "0L": 403, "0P": 403, "23503": 409, "23505": 409, "25006": 405, "21000": 500, "25": 500,
    "28": 403, "2D": 500, "38": 500, "39": 500, "3B": 500, "40": 500, "53400": 500, "53": 503, "54": 500, "55": 500,
    "57P01": 503, "57": 500, "58": 500, "F0": 500, "HV": 500, "P0001": 400, "P0": 500, "XX": 500, "42883": 404,
    "42P01": 404, "42P17": 500,
}  # fmt: skip


@dataclass
class RestError(Exception):
    """PostgREST's four members, and the status."""

    status: int
    code: str
    message: str
    details: str | None = None
    hint: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def reply(self) -> Reply:
        body = {"code": self.code, "details": self.details, "hint": self.hint, "message": self.message}
        headers = {"Proxy-Status": f"PostgREST; error={self.code}", **self.headers}
        if self.status == 503:
            headers["Retry-After"] = "1"
        return json_reply(self.status, body, headers)


def bad_jwt(code: str, message: str, details: str | None = None) -> RestError:
    challenge = f'Bearer error="invalid_token", error_description="{message}"'
    return RestError(401, code, message, details, headers={"WWW-Authenticate": challenge})


def no_function(schema: str, name: str, arguments: list[str], hint: str | None) -> RestError:
    named = f"({', '.join(arguments)})" if arguments else " without parameters"
    searched = f" with parameter{'s' if len(arguments) > 1 else ''} {', '.join(arguments)}" if arguments else named
    return RestError(
        404,
        "PGRST202",
        f"Could not find the function {schema}.{name}{named} in the schema cache",
        f"Searched for the function {schema}.{name}{searched} or with a single unnamed json/jsonb parameter, but no "
        "matches were found in the schema cache.",
        hint,
    )


def ambiguous_function(candidates: list[str]) -> RestError:
    return RestError(
        300,
        "PGRST203",
        f"Could not choose the best candidate function between: {', '.join(candidates)}",
        hint="Try renaming the parameters or the function itself in the database so function overloading can be "
        "resolved",
    )


def no_schema_cache() -> RestError:
    return RestError(503, "PGRST002", "Could not query the database for the schema cache. Retrying.")


def bad_body(message: str = "Empty or invalid json") -> RestError:
    return RestError(400, "PGRST102", message)


def unacceptable_schema(asked: str) -> RestError:
    return RestError(406, "PGRST106", f"Invalid schema: {asked}", hint="Only the following schemas are exposed: public")


def invalid_path() -> RestError:
    return RestError(404, "PGRST125", "Invalid path specified in request URL")


def database_away(text: str, *, lost: bool) -> RestError:
    if lost:
        return RestError(503, "PGRST001", "Database client error. Retrying the connection.", text)
    return RestError(503, "PGRST000", "Database connection error.", text)


def pool_exhausted() -> RestError:
    return RestError(504, "PGRST003", "Timed out acquiring connection from connection pool.")


def from_postgres(error: PostgresError, *, is_anonymous: bool) -> RestError:
    """What PostgREST makes of an SQL error. 42501 is 401 for the anonymous role and 403 for every other."""
    state = error.sqlstate or "XX000"
    message = error.diag.message_primary or str(error)
    match state:
        case "42501":
            status = 401 if is_anonymous else 403
        case "22023" if message.startswith("role") and message.endswith("does not exist"):
            status = 401
        case _ if state.startswith("PT") and state[2:].isdigit():
            status = int(state[2:])
        case _:
            status = next((REST_STATUS[state[:n]] for n in (5, 2) if state[:n] in REST_STATUS), 400)
    challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return RestError(status, state, message, error.diag.message_detail, error.diag.message_hint, challenge)


# ── storage-api ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class StorageError(Exception):
    """HTTP says 400 (or 500, 544); the true status is the *string* `statusCode` in the body."""

    status: int
    code: str
    message: str
    error: str = ""
    http: int | None = None

    @property
    def http_status(self) -> int:
        return self.http or (500 if self.status == 500 else 400)

    def reply(self) -> Reply:
        body = {"statusCode": str(self.status), "error": self.error or self.code, "message": self.message}
        return json_reply(self.http_status, {**body, "code": self.code})


def no_bucket() -> StorageError:
    return StorageError(404, "NoSuchBucket", "Bucket not found", "Bucket not found")


def no_object() -> StorageError:
    return StorageError(404, "NoSuchKey", "Object not found", "not_found")


def access_denied(message: str) -> StorageError:
    return StorageError(403, "AccessDenied", message, "Unauthorized")


def key_exists() -> StorageError:
    return StorageError(409, "KeyAlreadyExists", "The resource already exists", "Duplicate")


def bucket_exists() -> StorageError:
    return StorageError(409, "BucketAlreadyExists", "The resource already exists", "Duplicate")


def invalid_key(key: str, why: str = "") -> StorageError:
    return StorageError(400, "InvalidKey", f"Invalid key: {key}{why}")


def invalid_bucket_name() -> StorageError:
    return StorageError(400, "InvalidBucketName", "Bucket name invalid", "Invalid Input")


def too_large() -> StorageError:
    return StorageError(413, "EntityTooLarge", "The object exceeded the maximum allowed size", "Payload too large")


def invalid_type(media_type: str) -> StorageError:
    return StorageError(415, "InvalidMimeType", f"mime type {media_type} is not supported", "invalid_mime_type")


def invalid_content_type() -> StorageError:
    return StorageError(415, "InvalidMimeType", "Invalid Content-Type header", "invalid_mime_type")


def no_content(message: str = "No content provided") -> StorageError:
    return StorageError(400, "InvalidRequest", message)


def invalid_request(message: str) -> StorageError:
    """Fastify's own validation: its `error` is the name of the JavaScript class."""
    return StorageError(400, "InvalidRequest", message, "Error")


def invalid_range() -> StorageError:
    return StorageError(416, "InvalidRange", "invalid range provided", "invalid_range", http=416)


def invalid_jwt(message: str) -> StorageError:
    return StorageError(400, "InvalidJWT", message)


def invalid_signature(message: str = "Invalid signature") -> StorageError:
    return StorageError(400, "InvalidSignature", message)


def name_too_long(segment: str) -> StorageError:
    """The file system's, passed on by the file backend: over 255 bytes in one segment."""
    return StorageError(500, "InternalError", f"ENAMETOOLONG: name too long, mkdir '{segment}'", "Error")


def internal() -> StorageError:
    return StorageError(500, "InternalError", "Internal Server Error", "Internal")


def storage_pool_exhausted() -> StorageError:
    return StorageError(544, "DatabaseTimeout", "The connection to the database timed out", http=544)


def no_storage_route(method: str, target: str) -> Reply:
    return json_reply(404, {"message": f"Route {method}:{target} not found", "error": "Not Found", "statusCode": 404})


def storage_from_postgres(error: PostgresError) -> StorageError:
    message = error.diag.message_primary or str(error)
    match error.sqlstate:
        case "42501":
            return access_denied(
                "new row violates row-level security policy" if "row-level security" in message else message
            )
        case "23505":
            return StorageError(409, "ResourceAlreadyExists", "The resource already exists", "Duplicate")
        case "23503":
            return StorageError(404, "InvalidRequest", "The related resource does not exist")
        case "55P03":
            return StorageError(423, "ResourceLocked", "The resource is locked")
        case "57014":
            return storage_pool_exhausted()
        case "25006":
            text = "The database is currently in read-only mode. Please try again later."
            return StorageError(503, "DatabaseReadOnly", text)
        case "22P02":
            return StorageError(400, "InvalidParameter", message)
        case "42703" | "42P01":
            text = "The database schema is out of sync. Please run migrations or contact support."
            return StorageError(503, "DatabaseSchemaMismatch", text)
        case state:
            return StorageError(500, "DatabaseError", f"database error, code: {state}")


# ── TUS: status and plain text ───────────────────────────────────────────────────────────────────────────────

TUS_REQUIRED = (412, "Tus-Resumable Required\n")
TUS_NO_OFFSET = (403, "Upload-Offset header required\n")
TUS_NO_CONTENT_TYPE = (403, "Content-Type header required\n")
TUS_NOT_FOUND = (404, "The file for this url was not found\n")
TUS_EXPIRED = (410, "The file for this url no longer exists\n")
TUS_CONFLICT = (409, "Upload-Offset conflict\n")
TUS_OVERFLOW = (413, "upload's size exceeded\n")
TUS_TOO_LARGE = (413, "Maximum size exceeded\n")
TUS_NO_LENGTH = (400, "Upload-Length or Upload-Defer-Length header required\n")
TUS_NO_METADATA = (400, "Metadata header is required")
TUS_FINISHED = (400, "Cannot terminate an already completed upload")
TUS_DEFERRED = (501, "creation-defer-length extension is not (yet) supported.\n")
TUS_LOCKED = (423, "The resource is locked")
TUS_LOCK_TIMEOUT = (503, "acquiring lock timeout")
TUS_BROKEN = (500, "Something went wrong with that request\n")
TUS_CHUNK_SIZE = (400, "Chunks must be 6 MiB, except the last\n")
"""No such text in the sources: Supabase only documents that chunks must be 6 MB."""
