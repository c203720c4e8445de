"""Writes that are interrupted, as by Ctrl-C, stand in the way of none beside them or after them."""

import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn


def test_an_interrupted_wait_in_the_middle_of_a_commit_holds_up_none_of_those_behind_it() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.splitlines(), done.returncode) == (["interrupted", "all are written"], 0), done.stderr


def test_a_connection_whose_closing_was_interrupted_is_not_written_to_again(tmp_path: Path) -> None:
    class IsInterrupted(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            if interrupted:
                interrupted.pop()
                raise KeyboardInterrupt

    def connect(*given: Any, **settings: Any) -> sqlite3.Connection:
        return sqlite3.connect(*given, factory=IsInterrupted, **settings)

    interrupted: list[None] = []
    with closing(SqliteStore(tmp_path / "perdure.db", connect=connect)) as store:
        store.begin(a_turn("one", continuation_id="c"), Window(10, 1000))
        interrupted.append(None)
        with pytest.raises(KeyboardInterrupt):
            store.close()
        assert store.begin(a_turn("two", continuation_id="c"), Window(10, 1000)).place == 2


def interrupt_one_of_a_batch(store: SqliteStore) -> None:
    """The main thread's write is one of five in a commit that takes long. It is interrupted, as by Ctrl-C."""
    writer = store._writer
    first, second = Held(), Held()
    threads: list[threading.Thread] = []

    def write_in_a_thread(work: Callable[[object], object], *, waiting: int) -> None:
        thread = threading.Thread(target=lambda: writer.write(work, durable=False), daemon=True)
        thread.start()
        threads.append(thread)
        wait_for(waiting)

    def wait_for(waiting: int) -> None:
        while len(writer._waiting) < waiting:
            time.sleep(0.001)

    def interrupt() -> None:
        wait_for(3)  # The third of them is the main thread's.
        for waiting in (4, 5):
            write_in_a_thread(lambda _: None, waiting=waiting)
        first.may_end.set()
        second.began.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    write_in_a_thread(first, waiting=0)
    first.began.wait(30)
    write_in_a_thread(second, waiting=1)
    write_in_a_thread(lambda _: None, waiting=2)
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        writer.write(lambda _: None, durable=False)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    interrupting.join(10)
    second.may_end.set()
    for thread in threads:
        thread.join(10)
    if not any(thread.is_alive() for thread in threads):
        print("all are written", flush=True)


class Held:
    """A write that goes on until it may end."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self, _: object) -> None:
        self.began.set()
        self.may_end.wait(30)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "perdure.db")) as store:
        interrupt_one_of_a_batch(store)
