"""Lets one upload of a key go on at a time: two at once on one upload lock each other out at the server."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.errors import StoreTimeout

if sys.platform != "win32":
    import fcntl

__all__ = ["one_at_a_time"]

_PAUSE = 0.05


@contextmanager
def one_at_a_time(path: Path, *, until: float) -> Iterator[None]:
    """A lock among all threads and processes of this machine, which ends with whoever has it, however hard.

    `path` is made, and removed afterwards. `until`: on `time.monotonic()`.

    Raises:
        StoreTimeout: Whoever has it did not come to its end.
    """
    if sys.platform == "win32":
        yield  # The server's own lock has to do.
        return
    descriptor = _locked(path, until)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


if sys.platform != "win32":

    def _locked(path: Path, until: float) -> int:
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_what_others_see(path, descriptor):
                    return descriptor
                # Whoever had it has removed it since: others take turns on a new one.
                os.close(descriptor)
                continue
            except BlockingIOError:
                os.close(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if time.monotonic() + _PAUSE > until:
                raise StoreTimeout(
                    "The same file is being uploaded already, and that took too long.",
                    remedy="give it out again; the setting file_timeout is that time, in seconds.",
                )
            time.sleep(_PAUSE)

    def _is_what_others_see(path: Path, descriptor: int) -> bool:
        try:
            return os.path.samestat(path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False
