"""`perdure proxy`: what its arguments mean."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import typer

from perdure.middleware.proxy import serve_command, serve_url

__all__ = ["proxy"]

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2: a token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


def proxy(command: Sequence[str], url: str | None, headers: Sequence[str]) -> int:
    """Serve one or the other until the client goes. Returns the exit code.

    Raises:
        typer.BadParameter: Neither or both are given, or one cannot be understood.
    """
    if command and url is None and not headers:
        return serve_command(command)
    if command:
        raise typer.BadParameter("give a command after `--`, or --url and its --header, not both")
    if url is None:
        raise typer.BadParameter("give the server: `perdure proxy -- COMMAND …` or `perdure proxy --url https://…/mcp`")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise typer.BadParameter("--url takes an address that begins with https:// or http://")
    return serve_url(url, dict(map(_header, headers)))


def _header(text: str) -> tuple[str, str]:
    """
    Raises:
        typer.BadParameter: It is none. What it says is never repeated: it may be a secret.
    """
    name, colon, value = text.partition(":")
    if not colon or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise typer.BadParameter("--header takes NAME:VALUE, such as 'Authorization: Bearer …', in ASCII")
    return name, value.strip()
