"""Gives out what tools made, as the command line would, and in a form in which it can do nothing to this page."""

from collections.abc import Iterator
from itertools import chain
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from perdure.middleware.persistence.files.content import checked_pieces
from perdure.middleware.persistence.turn import StoredFile
from perdure.middleware.persistence.wiring import Runtime
from perdure.readable import printable_text
from perdure.viewer.headers import SANDBOXED

__all__ = ["file_response", "may_be_shown"]

_SHOWN = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"))
"""What a browser decodes to pixels and to nothing else. SVG is not among it: it is a document, with scripts."""

_LONGEST_NAME = 200


def may_be_shown(file: StoredFile) -> bool:
    return file.media_type in _SHOWN


def file_response(runtime: Runtime, request: Request) -> Response:
    """
    Raises:
        FileMissing: This user has no such file, or its content is not what it was.
        StoreUnavailable: It could not be read now.
    """
    asked = request.query_params
    keeper = runtime.keeper
    stored = keeper.find(asked.get("user", ""), asked.get("uri", ""))
    is_shown = may_be_shown(stored) and "download" not in asked
    headers = {
        "content-length": str(stored.size),
        "content-disposition": f"{'inline' if is_shown else 'attachment'}; {_file_name(stored.name)}",
        "content-security-policy": SANDBOXED,
    }
    pieces: Iterator[bytes] = checked_pieces(stored, keeper.file_store, keeper.spool)
    first = next(pieces, b"")  # What is missing is said before anything is sent.
    media_type = stored.media_type if is_shown else "application/octet-stream"
    return StreamingResponse(chain((first,), pieces), media_type=media_type, headers=headers)


def _file_name(name: str) -> str:
    """For a header, by RFC 6266: the name itself, and a plainer one for who cannot read that. Never a path."""
    on_one_line = " ".join(printable_text(name).split())
    safe = on_one_line.replace("/", "_").replace("\\", "_").strip(". ")[-_LONGEST_NAME:] or "file"
    plain = "".join(letter if letter.isascii() and letter not in '"%' else "_" for letter in safe)
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(safe, safe='')}"
