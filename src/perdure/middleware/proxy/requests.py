"""A request that waits for its answer, as the relay keeps it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from perdure.middleware.persistence.turn import Json, JsonObject
from perdure.middleware.proxy.json_rpc import Key, Message, key_of
from perdure.middleware.proxy.progress import CallProgress
from perdure.middleware.proxy.replies import Replies

__all__ = ["PROTOCOL_VERSION", "AnsweredWithError", "Request"]

PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
"""In `_meta` of each request, since 2026-07-28."""


class AnsweredWithError(Exception):
    """The server's answer is a JSON-RPC error, or nothing that could be a tool's result."""

    def __init__(self, answer: Message) -> None:
        self.answer = answer
        error = answer.body.get("error")
        super().__init__(
            f"JSON-RPC error {error.get('code')}: {error.get('message')}"
            if isinstance(error, dict)
            else "The server's answer is no result of a tool call."
        )


def _as_it_is(answer: Message) -> Message:
    return answer


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    message: Message
    replies: Replies
    protocol_version: str | None
    rewritten: Callable[[Message], Message] = _as_it_is
    """The answer as the client gets it; for a request that no task waits for."""
    has_task: bool = False
    """A task of ours waits for `arrived`, and gives the client its answer."""
    sent: anyio.Event = field(default_factory=anyio.Event)
    """To the server; or there is nothing to send."""
    answer: Message | None = None
    arrived: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Of the task."""
    progress: CallProgress | None = None

    @property
    def id(self) -> Json:
        return self.message.body["id"]

    @property
    def is_stateless(self) -> bool:
        """Of a protocol version without handshake."""
        return PROTOCOL_VERSION in self.message.meta

    @property
    def progress_key(self) -> Key:
        """Of the progress that its client wants to be told of."""
        return key_of(self.message.meta.get("progressToken"))

    @property
    def passes_untouched(self) -> bool:
        return not self.has_task and self.rewritten is _as_it_is

    def arrive(self, answer: Message) -> None:
        self.answer = answer
        self.arrived.set()

    def in_full(self, result: JsonObject, *, cacheable: bool = True) -> JsonObject:
        """A result of ours, as the protocol version of this request wants it."""
        if not self.is_stateless:
            return result
        full = {**result, "resultType": "complete"}
        return full if cacheable else {**full, "ttlMs": 0, "cacheScope": "private"}
