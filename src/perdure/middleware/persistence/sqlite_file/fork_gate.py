"""Keeps SQLite connections from crossing a fork, which their library does not survive.

Before a fork, whoever uses a connection finishes, all are closed, and nobody opens one; afterwards parent and child
open their own. A child process that is started by `subprocess` does not come by here.
"""

import os
import threading
import weakref
from collections.abc import Callable

from perdure.errors import StoreUnavailable

__all__ = ["ForkGate"]

_LONGEST_WAIT = 6.0
"""Seconds: longer than a write may wait for the file."""

_all_gates: "weakref.WeakSet[ForkGate]" = weakref.WeakSet()


class ForkGate:
    def __init__(self, close: Callable[[], None]) -> None:
        """`close` closes all connections. It is called while nobody is inside."""
        self._close = close
        self._make_locks()
        self._users: set[object] = set()
        """Those inside. To come and go takes no lock: who comes looks whether it is shut after having put itself here,
        and who shuts it looks who is here after that."""
        self._is_shut = False
        self._forking = False
        self._torn = False
        """In a child: somebody was inside when it was forked. Their connections must not be touched here."""
        _all_gates.add(self)

    def inside(self) -> "_Inside":
        """While a connection is in use.

        Raises:
            StoreUnavailable: In a child that was forked while one was.
        """
        return _Inside(self)

    def enter(self, user: object) -> None:
        """As `inside`, until `user`, an object of whoever comes, leaves."""
        self._users.add(user)
        if self._is_shut:
            self.leave(user)
            self._enter_once_open(user)

    def leave(self, user: object) -> None:
        self._users.discard(user)
        if self._is_shut:
            with self._changed:
                self._changed.notify_all()

    def _enter_once_open(self, user: object) -> None:
        with self._changed:
            if self._torn:
                raise StoreUnavailable(
                    "This process was forked in the middle of a write to the database, and cannot use it.",
                    remedy="start such processes with the spawn method, or before the server takes calls.",
                )
            while self._forking:
                self._changed.wait()
            self._users.add(user)

    def _make_locks(self) -> None:
        self._changed = threading.Condition()

    def _before(self) -> None:
        with self._changed:
            self._forking = self._is_shut = True
            if self._changed.wait_for(lambda: not self._users, _LONGEST_WAIT):
                self._close()

    def _in_parent(self) -> None:
        with self._changed:
            self._forking = False
            self._is_shut = self._torn
            self._changed.notify_all()

    def _in_child(self) -> None:
        self._make_locks()
        self._torn = self._torn or bool(self._users)
        self._users = set()
        self._forking = False
        self._is_shut = self._torn


class _Inside:
    # Not a generator: this stands around every operation.
    __slots__ = ("_gate",)

    def __init__(self, gate: ForkGate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        self._gate.enter(self)

    def __exit__(self, *_: object) -> None:
        self._gate.leave(self)


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
