"""Promise 5, Ordered pairs: under any concurrency no turn is lost and no prompt is parted from its answer.

Run as a program, this file is one of the processes that write: `test_ordered_pairs.py NAME CONVERSATIONS`.
"""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from backends import Backend, store_of_this_process
from conftest import on_every_backend

from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.stores import memory
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered

AT_ONCE = 64
"""Turns that run at the same time in one process, each in a thread of its own."""


@on_every_backend
@pytest.mark.parametrize("conversations", [1, 8])
def test_two_processes_with_64_turns_each_lose_nothing_and_keep_pairs(backend: Backend, conversations: int) -> None:
    environment = {**os.environ, **backend.environment, "PYTHONPATH": str(Path(__file__).parents[1])}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, name, str(conversations)],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in ("first", "second")
        ]
        assert [process.stdout and process.stdout.readline() for process in processes] == ["ready\n"] * 2
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [line for process in processes for line in json.loads(process.communicate(timeout=60)[0])]
        assert [process.returncode for process in processes] == [0, 0]
    assert len(told) == 2 * AT_ONCE
    store = backend.open()
    _expect_ordered_pairs(store, told, conversations)
    store.close()


@pytest.mark.parametrize("conversations", [1, 8])
def test_64_threads_on_the_memory_store_lose_nothing_and_keep_pairs(conversations: int) -> None:
    store = MemoryStore()
    # Every line of the store lets another thread go first: a lock that is missing shows.
    threading.settrace(_give_way)
    try:
        told = _all_at_once(store, "memory", conversations)
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    assert len(told) == AT_ONCE
    _expect_ordered_pairs(store, told, conversations)


def _expect_ordered_pairs(store: Store, told: list[dict[str, Any]], conversations: int) -> None:
    for number in range(conversations):
        name = f"conversation-{number}"
        mine = [turn for turn in told if turn["conversation"] == name]
        kept = store.turns("alice", name, limit=1000)
        assert [turn.place for turn in kept] == list(range(1, len(mine) + 1))
        assert {turn.prompt: turn.place for turn in kept} == {turn["prompt"]: turn["place"] for turn in mine}
        for turn in kept:
            assert turn.answer is not None
            assert turn.answer.text == f"answer to {turn.prompt}"
        for turn in mine:
            assert turn["history"] == sorted(turn["history"])
            assert all(place < turn["place"] for place in turn["history"])
            assert turn["pairs"]


def _give_way(frame: FrameType, _event: str, _argument: object) -> Any:
    if frame.f_code.co_filename != memory.__file__:
        return None
    time.sleep(0)
    return _give_way


def _all_at_once(store: Store, name: str, conversations: int) -> list[dict[str, Any]]:
    """One turn in each of 64 threads; what each was told."""
    together = threading.Barrier(AT_ONCE, timeout=60)
    told: list[dict[str, Any]] = []

    def one(number: int) -> None:
        conversation = f"conversation-{number % conversations}"
        prompt = f"{name} {number}"
        turn = a_turn(prompt, continuation_id=conversation)
        together.wait()
        begun = store.begin(turn, Window(20, 100_000))
        finished = store.finish(answered(turn, f"answer to {prompt}"))
        told.append(
            {
                "conversation": conversation,
                "prompt": prompt,
                "place": begun.place if begun.place == finished.place else None,
                "history": [turn.place for turn in begun.history],
                "pairs": all(turn.answer and turn.answer.text == f"answer to {turn.prompt}" for turn in begun.history),
            }
        )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def main() -> None:
    name, conversations = sys.argv[1:]
    store = store_of_this_process()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(_all_at_once(store, name, int(conversations))))
    store.close()


if __name__ == "__main__":
    main()
