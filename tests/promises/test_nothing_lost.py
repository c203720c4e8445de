"""Promise 3, Nothing acknowledged is lost: a process may be killed at any moment, and is, again and again.

SIGKILL proves what outlives a process. What outlives a power loss takes unsynced writes away, and is proven elsewhere.
Run as a program, this file is the writer that gets killed: `test_nothing_lost.py FIRST_NUMBER`.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from itertools import count
from pathlib import Path

from backends import Backend, store_of_this_process
from conftest import on_every_backend

from perdure.middleware.persistence.ports import GroupingStore, Store
from perdure.middleware.persistence.turn import Outcome, Turn, Window
from perdure.testing.turns import a_turn, answered

KILLS = 10
CONVERSATIONS = ("one", "two")
WINDOW = Window(20, 8_000)


@on_every_backend
def test_what_a_killed_writer_acknowledged_is_there_and_places_have_no_gaps(backend: Backend) -> None:
    dice = random.Random(20261123)
    acknowledged: set[str] = set()
    for kill in range(KILLS):
        acknowledged |= _write_until_killed(backend, first=kill * 1_000_000, lines=dice.randint(20, 120))
        # A store that was open all the time would do as well; a fresh one also has to recover what the killed one left.
        store = backend.open()
        kept = {turn.prompt: turn for name in CONVERSATIONS for turn in _all_turns(store, name)}
        store.close()
        for line in acknowledged:
            what, prompt, place = line.split(":")
            assert kept[prompt].place == int(place)
            if what == "finished":
                assert kept[prompt].outcome is Outcome.ANSWERED
                assert kept[prompt].answer == answered(kept[prompt], f"answer to {prompt}").answer
    assert len(acknowledged) > KILLS * 20
    if backend.name == "sqlite":
        with closing(sqlite3.connect(Path(backend.environment["PERDURE_DATA_DIR"]) / "perdure.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@on_every_backend
def test_a_killed_writer_holds_up_nobody(backend: Backend) -> None:
    _write_until_killed(backend, first=0, lines=40)
    store = backend.open()
    place = store.begin(a_turn("after the crash", continuation_id="one"), WINDOW).place
    assert place == len(_all_turns(store, "one"))
    store.close()


@on_every_backend
def test_a_reader_that_stays_open_sees_all_that_killed_writers_acknowledged(backend: Backend) -> None:
    reader = backend.open()
    reader.finish(answered(a_turn("before", continuation_id="one")))
    for kill in range(3):
        acknowledged = _write_until_killed(backend, first=kill * 1_000_000, lines=40)
        kept = {turn.prompt for name in CONVERSATIONS for turn in _all_turns(reader, name)}
        assert {line.split(":")[1] for line in acknowledged} <= kept
    reader.close()


def _write_until_killed(backend: Backend, *, first: int, lines: int) -> set[str]:
    """What a writer said it had acknowledged, until it was killed in the middle of its work."""
    environment = {**os.environ, **backend.environment, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, __file__, str(first)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    return {line.strip() for line in said if line.endswith("\n")}


def _all_turns(store: Store, name: str) -> list[Turn]:
    turns = store.turns("alice", name, limit=100_000)
    assert [turn.place for turn in turns] == list(range(1, len(turns) + 1))
    return turns


def main() -> None:
    store = store_of_this_process()
    numbers = count(int(sys.argv[1]))
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

    def write_together() -> None:
        assert isinstance(store, GroupingStore)
        while True:
            prompts = [f"prompt {next(numbers)}" for _ in range(5)]
            turns = [a_turn(prompt, continuation_id=CONVERSATIONS[0]) for prompt in prompts]
            for prompt, begun in zip(prompts, store.begin_together([(turn, WINDOW) for turn in turns]), strict=True):
                if begun is not None:
                    acknowledge("begun", prompt, begun.place)
            ended = [answered(turn, f"answer to {turn.prompt}") for turn in turns]
            for turn, finished in zip(ended, store.finish_together(ended), strict=True):
                acknowledge("finished", turn.prompt, (finished or store.finish(turn)).place)

    for work in (write, write, write, write_together):
        threading.Thread(target=work).start()


if __name__ == "__main__":
    main()
