"""What the proxy stands before: a server to which messages are sent, and which sends some itself."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from perdure.middleware.proxy.json_rpc import Message

__all__ = ["Ended", "Never", "Receive", "Upstream"]

Receive: TypeAlias = Callable[[Message], Awaitable[None]]
"""Takes each message that the server sends, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Why a server is there no more."""

    what: str
    remedy: str
    exit_code: int


class Upstream(Protocol):
    async def run(self, receive: Receive) -> Ended:
        """Serve until the server has ended by itself, which not every kind does."""
        ...

    async def send(self, message: Message) -> None:
        """Waits while the server cannot take more. What a server that has ended is sent is dropped."""
        ...

    async def end(self, *, patience: float) -> None:
        """The client has gone: give the server `patience` seconds to finish, then see that nothing of it stays.

        `run` returns because of it.
        """
        ...


class Never:
    """A server that could not be started."""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended

    async def run(self, receive: Receive) -> Ended:
        return self._ended

    async def send(self, message: Message) -> None:
        return

    async def end(self, *, patience: float) -> None:
        return
