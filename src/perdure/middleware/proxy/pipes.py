"""Lines from pipes and to pipes, on the event loop: no thread, no buffer that grows with the traffic.

A message may be as large as memory allows. Reading one costs its size once more; writing one copies nothing.
"""

import errno
import os
import select
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import anyio.lowlevel

__all__ = ["LineReader", "LineWriter"]

_CHUNK = 256 * 1024
"""Bytes read at once."""

_ENOUGH_PENDING = 1024 * 1024
"""Bytes. When more waits to be written, whoever writes waits too."""

_SHORT = 64 * 1024
"""Bytes that are copied rather than written apart from the end of their line."""


class LineReader:
    """Each line without its end; at last what stands after the last line's end, if anything does.

    Iterating raises OSError where the pipe cannot be read any more.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._only_what_is_there = False
        self._waiting = anyio.CancelScope()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts: list[bytes] = []
        while chunk := await self._chunk():
            *whole, rest = chunk.split(b"\n")
            for line in whole:
                parts.append(line)
                yield _joined(parts)
            if rest:
                parts.append(rest)
        if parts:
            yield _joined(parts)

    def finish(self) -> None:
        """Read what has been written until now, and no more: whoever else has the pipe open is not waited for."""
        self._only_what_is_there = True
        os.set_blocking(self._descriptor, False)
        self._waiting.cancel()

    def close(self) -> None:
        os.close(self._descriptor)

    async def _chunk(self) -> bytes:
        if not self._only_what_is_there:
            with anyio.CancelScope() as self._waiting:
                try:
                    await anyio.wait_readable(self._descriptor)
                except PermissionError:  # A regular file or /dev/null: nothing to wait for.
                    await anyio.lowlevel.checkpoint()
        try:
            return os.read(self._descriptor, _CHUNK)
        except (BlockingIOError, ConnectionError):  # the latter of a pair of sockets whose other end has died
            return b""


class LineWriter:
    """Whole lines, in the order in which they were given: a cancelled `write` has its line written all the same."""

    def __init__(self, descriptor: int) -> None:
        """The descriptor becomes this writer's own, and `run` closes it."""
        self.broken = False
        """Nobody reads at the other end any more, or it was closed here; what is written is dropped."""
        self._descriptor = descriptor
        self._pending: deque[memoryview] = deque()
        self._size = 0
        self._more = anyio.Event()
        self._written = anyio.Event()
        self._running = anyio.CancelScope()
        if not os.isatty(descriptor):  # A terminal's setting is shared with the shell.
            os.set_blocking(descriptor, False)

    async def run(self) -> None:
        """Write what could not be written at once, until `close`."""
        try:
            with self._running:
                while True:
                    while self._pending:
                        await anyio.wait_writable(self._descriptor)
                        self._write_pending()
                    self._more = anyio.Event()
                    await self._more.wait()
        finally:
            self._drop()
            os.close(self._descriptor)

    def write_now(self, line: bytes) -> None:
        """Without waiting: for a short line whose sender cannot wait."""
        if self.broken:
            return
        idle = not self._pending
        if len(line) < _SHORT:
            self._pending.append(memoryview(line + b"\n"))
        else:
            self._pending += memoryview(line), memoryview(b"\n")
        self._size += len(line) + 1
        if idle:
            self._write_pending()
        if self._pending:
            self._more.set()

    async def write(self, line: bytes) -> None:
        """Waits while much is to be written."""
        self.write_now(line)
        while self._size > _ENOUGH_PENDING:
            await self._written.wait()

    async def flushed(self) -> None:
        while self._pending:
            await self._written.wait()

    async def nobody_reads(self) -> None:
        """Until the other end is closed, with or without anything to write. Never, where that cannot be seen."""
        with suppress(PermissionError):  # a regular file
            if not os.isatty(self._descriptor):
                await anyio.wait_readable(self._descriptor)
                if _is_hung_up(self._descriptor):
                    self._drop()
                    return
        await anyio.sleep_forever()

    def close(self) -> None:
        """What is not yet written is dropped."""
        self.broken = True
        self._running.cancel()

    def _write_pending(self) -> None:
        try:
            while self._pending:
                first = self._pending[0]
                written = os.write(self._descriptor, first)
                self._size -= written
                if written < len(first):
                    self._pending[0] = first[written:]
                else:
                    self._pending.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            self._drop()
        self._written.set()
        self._written = anyio.Event()

    def _drop(self) -> None:
        self.broken = True
        self._pending.clear()
        self._size = 0
        self._written.set()


def _joined(parts: list[bytes]) -> bytes:
    """Them as one, and none of them any more: a large line is not there twice while it is worked on."""
    line = b"".join(parts)
    parts.clear()
    return line


def _is_hung_up(descriptor: int) -> bool:
    """Of a pair of sockets, the other end may only have said that it will not write."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
