"""`perdure proxy`: the seam before a server that nothing of ours runs in, in whatever language it is written."""

from collections.abc import Mapping, Sequence
from functools import partial

import anyio

from perdure.middleware.proxy import child
from perdure.middleware.proxy.session import own_stdio, serve

__all__ = ["serve_command", "serve_url"]


def serve_command(command: Sequence[str]) -> int:
    """Serve the server that `command` starts, on this process's stdin and stdout. Returns the exit code."""
    return anyio.run(serve, partial(child.started, command), *own_stdio())


def serve_url(url: str, headers: Mapping[str, str]) -> int:
    """Serve the streamable HTTP server at `url`, on this process's stdin and stdout. Returns the exit code."""
    from perdure.middleware.proxy.http_upstream import HttpUpstream  # noqa: PLC0415 - where it is used

    return anyio.run(serve, partial(HttpUpstream, url, headers), *own_stdio())
