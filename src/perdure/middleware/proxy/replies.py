"""Where the answer to a client's request goes: to the client, or with those to its batch."""

from typing import Protocol

from perdure.middleware.proxy.json_rpc import Message
from perdure.middleware.proxy.pipes import LineWriter

__all__ = ["AtOnce", "Replies", "Together"]


class Replies(Protocol):
    async def give(self, answer: Message) -> None: ...

    async def none(self) -> None:
        """The request was cancelled: there is no answer to it."""
        ...


class AtOnce:
    def __init__(self, client: LineWriter) -> None:
        self._client = client

    async def give(self, answer: Message) -> None:
        await self._client.write(answer.raw)

    async def none(self) -> None:
        return


class Together:
    """As one array, when the last of `expected` is there (JSON-RPC 2.0, section 6; MCP 2025-03-26)."""

    def __init__(self, client: LineWriter, expected: int) -> None:
        self._client = client
        self._missing = expected
        self._answers: list[bytes] = []

    async def give(self, answer: Message) -> None:
        self._answers.append(answer.raw)
        await self.none()

    async def none(self) -> None:
        self._missing -= 1
        if self._missing == 0 and self._answers:
            await self._client.write(b"[" + b",".join(self._answers) + b"]")
