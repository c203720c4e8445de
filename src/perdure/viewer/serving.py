"""The socket of the viewer, and its end."""

import contextlib
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from perdure.errors import PerdureError
from perdure.middleware.persistence.wiring import Runtime
from perdure.viewer.access import Credentials
from perdure.viewer.application import application

__all__ = ["Address", "serve"]

_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Address:
    printed: str
    """For the person who started it; good for as long as this runs."""
    opened: str
    """For a browser that is started with it, where all users of the machine can read it: good once."""


def serve(runtime: Runtime, *, port: int, started: Callable[[Address], None]) -> None:
    """Show what `runtime` can read until Ctrl-C, on the loopback alone. `started` is told the address.

    Raises:
        PerdureError: The port cannot be had.
    """
    with _socket(port) as listening:
        port = listening.getsockname()[1]
        credentials = Credentials()
        hosts = {f"{name}:{port}" for name in (_HOST, "localhost")} | ({_HOST, "localhost"} if port == 80 else set())
        config = uvicorn.Config(
            application(runtime, credentials, hosts),
            log_config=None,  # The application's logging is its own; what goes wrong reaches stderr without it.
            access_log=False,  # It would print the token.
            proxy_headers=False,  # Nobody stands before it, so nobody may say who asks.
            server_header=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            timeout_graceful_shutdown=1,
        )
        origin = f"http://{_HOST}:{port}"
        printed = f"{origin}{credentials.base}/?token={credentials.token}"
        started(Address(printed, f"{origin}/?token={credentials.ticket}"))
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn ends in order, and then raises it again.
            uvicorn.Server(config).run(sockets=[listening])


def _socket(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what, remedy = f"The port {port} is taken by another program.", "end that, or choose another"
        elif error.errno == errno.EACCES:
            what, remedy = f"The port {port} is not for this user.", "choose one above 1023"
        else:
            raise
        raise PerdureError(what, remedy=f"{remedy} with --port; `--port 0` takes any that is free.") from error
