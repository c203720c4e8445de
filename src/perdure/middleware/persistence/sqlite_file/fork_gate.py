"""Keeps SQLite connections from crossing a fork, which their library does not survive.

Before a fork, whoever uses a connection finishes, all are closed, and nobody opens one; afterwards parent and child
open their own. A child process that is started by `subprocess` does not come by here.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator

from perdure.errors import StoreUnavailable

__all__ = ["ForkGate"]

_LONGEST_WAIT = 6.0
"""Seconds: longer than a write may wait for the file."""

_all_gates: "weakref.WeakSet[ForkGate]" = weakref.WeakSet()


class ForkGate:
    def __init__(self, close: Callable[[], None]) -> None:
        """`close` closes all connections. It is called while nobody is inside."""
        self._close = close
        self._condition = threading.Condition()
        self._inside = 0
        self._forking = False
        self._torn = False
        """In a child: somebody was inside when it was forked. Their connections must not be touched here."""
        _all_gates.add(self)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """While a connection is in use.

        Raises:
            StoreUnavailable: In a child that was forked while one was.
        """
        with self._condition:
            if self._torn:
                raise StoreUnavailable(
                    "This process was forked in the middle of a write to the database, and cannot use it.",
                    remedy="start such processes with the spawn method, or before the server takes calls.",
                )
            while self._forking:
                self._condition.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    def _before(self) -> None:
        with self._condition:
            self._forking = True
            if self._condition.wait_for(lambda: self._inside == 0, _LONGEST_WAIT):
                self._close()

    def _in_parent(self) -> None:
        with self._condition:
            self._forking = False
            self._condition.notify_all()

    def _in_child(self) -> None:
        self._condition = threading.Condition()
        self._torn = self._torn or self._inside > 0
        self._inside = 0
        self._forking = False


def _before_fork() -> None:
    for gate in list(_all_gates):
        gate._before()


def _after_in_parent() -> None:
    for gate in list(_all_gates):
        gate._in_parent()


def _after_in_child() -> None:
    for gate in list(_all_gates):
        gate._in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
