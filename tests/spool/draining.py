"""A drainer of the test's own between a real spool and stores that can be told to fail, where pauses pass at once."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from away_file_store import AwayFileStore

from perdure import Turn
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.spool.database import SpoolDatabase
from perdure.middleware.persistence.spool.drainer import Drainer
from perdure.middleware.persistence.spool.spooled_files import SpooledFile, SpooledFiles
from perdure.middleware.persistence.spool.spooled_turns import ConversationKey, SpooledTurns
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.testing import FaultyStore, FrozenClock
from perdure.testing.turns import a_turn, answered

BREAKER_PAUSE = 7.0


class Hours:
    """Stands for the module `time`; only tests and pauses move it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


class Moments(threading.Condition):
    """What a drainer's threads wait on. A thread's pause passes at once, and something may happen in it.

    When nothing more is to happen, the drainer is told to stop with the next pause.
    """

    def __init__(self, hours: Hours) -> None:
        super().__init__()
        self.hours = hours
        self.happens: list[Callable[[], None]] = []
        """In the pauses to come, one each."""
        self.pauses: list[tuple[float, bool]] = []
        """Seconds, and whether it was cut short."""
        self.who_paused: set[threading.Thread] = set()
        self.waits: list[float | None] = []
        """Seconds that somebody outside of the threads was ready to wait."""
        self.in_wait: Callable[[], bool] = self.really_wait
        self.stop: Callable[[], None] = lambda: None
        self._goes_on = False

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        assert timeout is not None
        self.who_paused.add(threading.current_thread())
        last = not self.happens
        if not last:
            self.happens.pop(0)()
        cut_short = bool(predicate())
        self.pauses.append((timeout, cut_short))
        assert len(self.pauses) < 50, "it pauses again and again"
        if not cut_short:
            self.hours.now += timeout
        if last:
            self.stop()
        return cut_short

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return len(self.waits) < 50 and self.in_wait()

    def really_wait(self) -> bool:
        return threading.Condition.wait(self, 10.0)

    def time_is_up(self) -> bool:
        """In the place of `in_wait`."""
        return False

    def hold(self) -> None:
        """In a pause: stay there until `let_go`."""
        for _ in range(500):
            if self._goes_on:
                return
            threading.Condition.wait(self, 0.01)
        raise AssertionError("nobody let it go")

    def hold_while(self, condition: Callable[[], bool]) -> None:
        """In a pause: stay there for so long, and let other threads go on."""
        for _ in range(300):
            if not condition():
                return
            threading.Condition.wait(self, 0.01)

    def let_go(self) -> None:
        self._goes_on = True


class Draining:
    def __init__(self, folder: Path, hours: Hours, *, failures: int = 1, **options: int) -> None:
        self.folder = folder
        self.hours = hours
        self.store = FaultyStore(MemoryStore(FrozenClock()))
        self.file_store = AwayFileStore(folder / "kept")
        self.database = SpoolDatabase(folder / "spool.db", FrozenClock())
        self.turns = SpooledTurns(self.database, "here", lambda _connection, _size: None)
        self.files = SpooledFiles(self.database, "here", folder / "waiting", lambda _connection, _size: None)
        breaker, file_breaker = (
            Breaker(failures=failures, first_pause=BREAKER_PAUSE, now=hours.monotonic) for _ in range(2)
        )
        self._threads_before = set(threading.enumerate())
        self.drainer = Drainer(self.turns, self.files, self.store, self.file_store, breaker, file_breaker, **options)
        self.moments = self.drainer._changed = Moments(hours)
        self.moments.stop = lambda: setattr(self.drainer, "_stopped", True)

    def keep(self, prompt: str, continuation_id: str = "c") -> Turn:
        turn = answered(a_turn(prompt, continuation_id=continuation_id), prompt.upper())
        self.turns.keep(turn)
        return turn

    def keep_file(self, content: bytes, media_type: str = "text/plain") -> str:
        key = f"alice/{hashlib.sha256(content).hexdigest()}/a.txt"
        snapshot = self.folder / "snapshot"
        snapshot.write_bytes(content)
        self.files.keep(key, snapshot, media_type=media_type)
        return key

    def waiting(self, continuation_id: str = "c") -> int:
        return self.turns.waiting(ConversationKey("alice", continuation_id))

    def waiting_files(self) -> list[str]:
        return [file.key for file in self.files.waiting()]

    def the_file(self) -> SpooledFile:
        [file] = self.files.waiting()
        return file

    def set_apart(self) -> list[tuple[str, str]]:
        """What is in quarantine, and why."""
        return [(row["id"], row["reason"]) for row in self.database.read("list_quarantine", {})]

    def threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self._threads_before]

    def wake_and_wait(self) -> None:
        self.drainer.wake()
        self.wait_for_threads()

    def wait_for_threads(self) -> None:
        """Until all have ended."""
        while threads := self.threads():
            threads[0].join(5)
            assert not threads[0].is_alive(), "it goes on and on"
        assert self.drainer._threads == 0, "one is counted that has ended"

    def close(self) -> None:
        self.store.heal()
        self.file_store.goes_on.set()
        self.moments.let_go()
        self.moments.in_wait = self.moments.time_is_up
        self.drainer.stop()
        for thread in self.threads():
            thread.join(3)
        self.database.close()
