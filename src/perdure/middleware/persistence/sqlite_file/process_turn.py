"""Lets one process at a time write to a file, in turns: SQLite's own busy waiting starves some of them for seconds."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from perdure.errors import StoreTimeout

if sys.platform != "win32":
    import fcntl

    _TAKEN = fcntl.LOCK_EX | fcntl.LOCK_NB

__all__ = ["ProcessTurn"]

_LONGEST_WAIT = 3.0
"""Seconds: less than a call waits for its store, so that the reason is said and not only that it took too long."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.005

_HELD_BY_ANOTHER = (BlockingIOError, PermissionError)

_LOOK_EVERY = 1.0
"""Seconds: whether the side file was removed. Who has the turn nevertheless knows that the database was, too."""


class ProcessTurn:
    """A record lock on a side file, and a lock among the threads of this process.

    The record lock belongs to the process: the system takes it back when the process ends, and a forked child has no
    part in it. That is also why all stores of one file in one process share one `ProcessTurn`.
    """

    _all: ClassVar[dict[Path, "ProcessTurn"]] = {}
    _making: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = str(path)
        self._descriptor: int | None = None
        self._file: os.stat_result | None = None
        """Which file it is that is open, where its system has such locks."""
        self._looked_at = -_LOOK_EVERY
        self._among_threads = threading.Lock()

    @classmethod
    def on(cls, path: Path) -> "ProcessTurn":
        with cls._making:
            return cls._all.setdefault(path, cls(path))

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """As between `take` and `give_back`."""
        self.take()
        try:
            yield
        finally:
            self.give_back()

    def take(self, make_folder: Callable[[], None] | None = None) -> None:
        """Wait for this process's turn, and this thread's. Who has it gives it back, whatever happens.

        `make_folder` is called where the side file is not open yet, or was removed.

        Raises:
            StoreTimeout: Whoever has the turn did not give it back within 3 seconds.
            OSError: The side file cannot be opened.
        """
        now = time.monotonic()
        if not self._among_threads.acquire(blocking=False) and not self._among_threads.acquire(timeout=_LONGEST_WAIT):
            raise self._too_long()
        try:
            if sys.platform == "win32":
                if make_folder is not None:
                    make_folder()
                return  # Among processes SQLite's own lock has to do.
            descriptor = self._descriptor if self._descriptor is not None else self._opened(make_folder)
            try:
                fcntl.lockf(descriptor, _TAKEN)
            except _HELD_BY_ANOTHER:
                self._lock(descriptor, now + _LONGEST_WAIT)
            if now - self._looked_at >= _LOOK_EVERY:
                self.make_sure(make_folder)
        except BaseException:
            self._among_threads.release()
            raise

    def make_sure(self, make_folder: Callable[[], None] | None = None) -> None:
        """For who has the turn: that it is on the file that others see. It may have been removed with its folder.

        Raises:
            StoreTimeout, OSError: As `take`.
        """
        if sys.platform == "win32":
            return
        self._looked_at = time.monotonic()
        while not self._is_the_file_that_others_see():
            self._close()
            self._lock(self._opened(make_folder), self._looked_at + _LONGEST_WAIT)

    def give_back(self) -> None:
        try:
            if sys.platform != "win32" and self._descriptor is not None:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._among_threads.release()

    def close(self) -> None:
        with self._among_threads:
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _too_long(self) -> StoreTimeout:
        return StoreTimeout(
            f"Another process has been writing to the database beside {self._path} for too long.",
            remedy="look for a process of this server that hangs or is stopped, and end it.",
        )

    def _opened(self, make_folder: Callable[[], None] | None) -> int:
        if make_folder is not None:
            make_folder()
        self._descriptor = descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._file = os.fstat(descriptor)
        return descriptor

    def _lock(self, descriptor: int, deadline: float) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                fcntl.lockf(descriptor, _TAKEN)
            except _HELD_BY_ANOTHER as error:
                if time.monotonic() > deadline:
                    raise self._too_long() from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    def _is_the_file_that_others_see(self) -> bool:
        try:
            return self._file is not None and os.path.samestat(self._file, os.stat(self._name))  # noqa: PTH116 - see Database
        except FileNotFoundError:
            return False


def _forget_in_child() -> None:
    ProcessTurn._making = threading.Lock()
    for turn in ProcessTurn._all.values():
        turn._among_threads = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
