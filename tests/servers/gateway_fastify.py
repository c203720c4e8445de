"""What storage-api's framework and renderer do with JSON bodies, rows and ranges."""

import json
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from servers import gateway_errors as errors
from servers.gateway_http import Request
from servers.gateway_objects import Row, javascript_time

JSON_LIMIT = 1024 * 1024
"""Fastify's bodyLimit."""
TEXT_FIELDS = ("owner", "owner_id", "version", "bucket_id")
"""Strings in the schema of the reply: its serializer turns a null into ""."""


def json_body(request: Request) -> dict[str, Any]:
    raw = request.read(JSON_LIMIT)
    if raw is None:
        raise errors.StorageError(413, "EntityTooLarge", "Request body is too large", "FastifyError", http=413)
    try:
        body = json.loads(raw or b"null")
    except ValueError:
        raise errors.StorageError(400, "InvalidRequest", "Body is not valid JSON", "SyntaxError") from None
    if not isinstance(body, dict):
        raise errors.invalid_request("body must be object")
    return body


def shown(row: Row, fields: tuple[str, ...]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name in fields:
        if name not in row:
            continue
        match row[name]:
            case datetime() as moment:
                cells[name] = javascript_time(moment)
            case None if name in TEXT_FIELDS:
                cells[name] = ""
            case None | bool() | int() | list() | dict() as value:
                cells[name] = value
            case value:
                cells[name] = str(value)
    return cells


def object_headers(row: Row) -> dict[str, str]:
    metadata = row["metadata"]
    modified = datetime.fromisoformat(metadata["lastModified"])
    media_type = metadata["mimetype"]
    return {
        "Accept-Ranges": "bytes",
        "Content-Type": "text/plain" if "text/html" in media_type else media_type,
        "ETag": metadata["eTag"],
        "X-Robots-Tag": "none",
        "Last-Modified": format_datetime(modified.astimezone(UTC), usegmt=True),
        "Cache-Control": metadata["cacheControl"],
    }


def byte_range(asked: str, size: int) -> tuple[int, int]:
    """Of a Range header: first byte and length.

    Raises:
        StorageError: 416.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if match is None or not any(match.groups()) or size == 0:
        raise errors.invalid_range()
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise errors.invalid_range()
        return size - length, length
    start = int(first)
    end = min(int(last), size - 1) if last else size - 1
    if start >= size or (last and int(last) < start):
        raise errors.invalid_range()
    return start, end - start + 1
