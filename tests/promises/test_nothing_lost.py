"""Promise 3, Nothing acknowledged is lost: a process may be killed at any moment, and is, again and again.

SIGKILL proves what outlives a process. What outlives a power loss takes unsynced writes away, and is proven elsewhere.
Run as a program, this file is the writer that gets killed: `test_nothing_lost.py DATABASE FIRST_NUMBER`.
"""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from itertools import count
from pathlib import Path

from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Outcome, Turn, Window
from perdure.testing.turns import a_turn, answered

KILLS = 10
CONVERSATIONS = ("one", "two")
WINDOW = Window(20, 8_000)


def test_what_a_killed_writer_acknowledged_is_there_and_places_have_no_gaps(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    dice = random.Random(20261123)
    acknowledged: set[str] = set()
    for kill in range(KILLS):
        acknowledged |= _write_until_killed(path, first=kill * 1_000_000, lines=dice.randint(20, 120))
        # A store that was open all the time would do as well; a fresh one also has to recover what the killed one left.
        store = SqliteStore(path)
        kept = {turn.prompt: turn for name in CONVERSATIONS for turn in _all_turns(store, name)}
        store.close()
        for line in acknowledged:
            what, prompt, place = line.split(":")
            assert kept[prompt].place == int(place)
            if what == "finished":
                assert kept[prompt].outcome is Outcome.ANSWERED
                assert kept[prompt].answer == answered(kept[prompt], f"answer to {prompt}").answer
    assert len(acknowledged) > KILLS * 20
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_killed_writer_holds_up_nobody(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    _write_until_killed(path, first=0, lines=40)
    store = SqliteStore(path)
    place = store.begin(a_turn("after the crash", continuation_id="one"), WINDOW).place
    assert place == len(_all_turns(store, "one"))
    store.close()


def test_a_reader_that_stays_open_sees_all_that_killed_writers_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    reader = SqliteStore(path)
    reader.finish(answered(a_turn("before", continuation_id="one")))
    for kill in range(3):
        acknowledged = _write_until_killed(path, first=kill * 1_000_000, lines=40)
        kept = {turn.prompt for name in CONVERSATIONS for turn in _all_turns(reader, name)}
        assert {line.split(":")[1] for line in acknowledged} <= kept
    reader.close()


def _write_until_killed(path: Path, *, first: int, lines: int) -> set[str]:
    """What a writer said it had acknowledged, until it was killed in the middle of its work."""
    command = [sys.executable, __file__, str(path), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    return {line.strip() for line in said if line.endswith("\n")}


def _all_turns(store: SqliteStore, name: str) -> list[Turn]:
    turns = store.turns("alice", name, limit=100_000)
    assert [turn.place for turn in turns] == list(range(1, len(turns) + 1))
    return turns


def main() -> None:
    path, first = sys.argv[1:]
    store = SqliteStore(Path(path))
    numbers = count(int(first))
    printing = threading.Lock()

    def acknowledge(what: str, prompt: str, place: int) -> None:
        with printing:
            print(f"{what}:{prompt}:{place}", flush=True)

    def write() -> None:
        while True:
            number = next(numbers)
            prompt = f"prompt {number}"
            turn = a_turn(prompt, continuation_id=CONVERSATIONS[number % 2])
            acknowledge("begun", prompt, store.begin(turn, WINDOW).place)
            acknowledge("finished", prompt, store.finish(answered(turn, f"answer to {prompt}")).place)

    for _ in range(4):
        threading.Thread(target=write).start()


if __name__ == "__main__":
    main()
