"""Servers with one tool, `chat`, that settings switch off and on while they run. To be used with `live_settings`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure import install, persisted

__all__ = ["OFF", "ON", "echo", "ways", "write"]

OFF = "[defaults]\nenabled = false"
ON = "[defaults]\nenabled = true"


def write(text: str) -> None:
    Path(os.environ["PERDURE_CONFIG"]).write_text(text)


async def echo(text: str) -> str:
    return text


def ways(new: Callable[[str], Any], add: Callable[[Any, Any], None]) -> list[Callable[[], Any]]:
    """The ways in which the tool of a server comes to be persisted: hooked, decorated, both. `add` calls it `chat`."""

    def hooked() -> Any:
        server = new("hooked")
        add(server, echo)
        install(server, tools=["chat"])
        return server

    def decorated() -> Any:
        server = new("decorated")
        add(server, persisted(echo))
        return server

    def both() -> Any:
        server = decorated()
        install(server, tools=["chat"])
        return server

    return [hooked, decorated, both]
