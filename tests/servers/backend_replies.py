"""Where Postgres' replies end in its stream of bytes (protocol 3.0, "Message Formats")."""

from collections.abc import Iterator
from dataclasses import dataclass

HEAD = 5
"""Bytes: the kind of a message, and its length, which counts itself but not the kind."""


@dataclass(frozen=True)
class Reply:
    """One answer of the server, up to its ReadyForQuery."""

    end: int
    """Offset behind it in the piece of the stream in which it ended."""
    tags: tuple[str, ...]
    """Of the commands that it completes, such as "COMMIT" or "INSERT 0 1"; none after an error."""


class BackendReplies:
    """Reads what a server sends, in whatever pieces it comes, from the answer to the StartupMessage on."""

    def __init__(self) -> None:
        self._head = b""
        self._body_left = 0
        self._tag = bytearray()
        self._tags: list[str] = []
        self._started = False

    def ended_in(self, piece: bytes) -> Iterator[Reply]:
        """The replies to queries that end in `piece`; the greeting after authentication is none."""
        at = 0
        while at < len(piece):
            if len(self._head) < HEAD:
                taken = piece[at : at + HEAD - len(self._head)]
                self._head += taken
                at += len(taken)
                if len(self._head) < HEAD:
                    return
                self._body_left = int.from_bytes(self._head[1:]) - 4
            body = piece[at : at + self._body_left]
            at += len(body)
            self._body_left -= len(body)
            if self._head[:1] == b"C":
                self._tag += body
            if not self._body_left:
                yield from self._message_ended(at)

    def _message_ended(self, at: int) -> Iterator[Reply]:
        kind, self._head = self._head[:1], b""
        match kind:
            case b"C":  # CommandComplete
                self._tags.append(self._tag.rstrip(b"\0").decode())
                self._tag.clear()
            case b"Z":  # ReadyForQuery
                reply = Reply(at, tuple(self._tags))
                self._tags = []
                if self._started:
                    yield reply
                self._started = True
