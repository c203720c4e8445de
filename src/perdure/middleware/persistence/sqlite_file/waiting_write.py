"""What a thread brings to be written, and what becomes of it."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["Refused", "Write", "only_one"]

T = TypeVar("T")


class Refused(NamedTuple):
    """In place of a result: a write is not done, and has changed nothing. Those beside it need not be done again."""

    error: Exception


class Write(Generic[T]):
    """What one thread waits for: one work, or several alike."""

    __slots__ = (
        "_asleep",
        "_is_woken",
        "all_done",
        "alone",
        "done",
        "durable",
        "error",
        "following",
        "is_given_up",
        "results",
        "works",
    )

    def __init__(
        self,
        works: Sequence[Any],
        all_done: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[T | Refused]],
        durable: bool,
        *,
        alone: bool = False,
    ) -> None:
        self.works = works
        self.all_done = all_done
        self.alone = alone
        self.results: Sequence[T | Refused] = ()
        self.durable = durable
        self.error: BaseException | None = None
        self.done = False
        self.following: Write[Any] | None = None
        """Whom to wake next, once it is done."""
        self.is_given_up = False
        self._asleep: threading.Lock
        """Where somebody waits; free once there is something to do: the work is done, or this is the leader."""
        self._is_woken = False

    def put_to_sleep(self) -> None:
        """`wait` waits until `wake`, which may come first."""
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self) -> None:
        self._asleep.acquire()

    def wake(self) -> None:
        """For one thread at a time."""
        if not self._is_woken:
            self._is_woken = True
            self._asleep.release()

    def do(self, connection: sqlite3.Connection) -> None:
        self.results = self.all_done(connection, self.works)


def only_one(results: Sequence[T | Refused]) -> T:
    """The result of a single work.

    Raises:
        Exception: It was refused.
    """
    result: Any = results[0]
    if isinstance(result, Refused):
        raise result.error
    done: T = result
    return done
