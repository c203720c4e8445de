"""Durable turns a second of many at once, each of 64 conversations going on by itself: on an event loop, in threads."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from benchmarks.embedded import WINDOW, Seed, embedded, name
from benchmarks.going_on import at_once, by_threads
from benchmarks.harness import Candidate, Comparison, Goal, Result, interleaved
from benchmarks.raw_sqlite import RawTurns

__all__ = ["run"]

_CONVERSATIONS = 64
_MESSAGES = 100
"""In each beforehand."""

_THREADS = (1, 8, 64)

_TURNS = 256
"""In one round, for each candidate."""


def run(rounds: int, folder: Path) -> list[Result]:
    with ExitStack() as stack:
        raw = stack.enter_context(
            closing(
                RawTurns(folder / "raw.db", conversations=_CONVERSATIONS, messages=_MESSAGES, window=WINDOW.turns * 2)
            )
        )
        database = stack.enter_context(
            embedded(folder / "embedded.db", Seed(conversations=_CONVERSATIONS, messages=_MESSAGES))
        )
        names = [name(number) for number in range(_CONVERSATIONS)]
        candidates: list[Candidate] = []
        for threads in _THREADS:
            pool = stack.enter_context(ThreadPoolExecutor(threads))
            floor = f"floor: one thread, {threads} raw turn{'s' * (threads > 1)} a commit"
            candidates += [
                Candidate(name=floor, measure=_raw(raw, threads)),
                Candidate(
                    name=f"{threads} thread{'s' * (threads > 1)}",
                    measure=by_threads(database.turn, pool, names, _TURNS, threads=threads),
                    floor=floor,
                ),
            ]
        candidates.append(
            Candidate(
                name=f"{_CONVERSATIONS} calls on an event loop",
                measure=at_once(database.turn_of_a_call, stack.enter_context(asyncio.Runner()), names, _TURNS),
                floor=f"floor: one thread, {_CONVERSATIONS} raw turns a commit",
                goal=Goal(quantity="ratio", limit=0.7),
            )
        )
        comparison = Comparison(
            name="throughput",
            title=f"Durable SQLite turns on {_CONVERSATIONS} conversations of {_MESSAGES} messages",
            unit="turns/s",
            more_is_better=True,
            candidates=candidates,
        )
        result = interleaved(comparison, rounds)
        notes = [
            f"Verified: all {database.verified():,} acknowledged turns are in the file, in their places.",
            "A floor does the same reads and the same two rows a turn, with no wait between threads at all.",
        ]
        return [replace(result, notes=notes)]


def _raw(raw: RawTurns, at_once: int) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        for batch in _batches(at_once):
            raw.turns_in_one_commit(batch)
        return _TURNS / (time.perf_counter() - started)

    return measure


def _batches(size: int) -> list[list[int]]:
    """A round's turns, as numbers of conversations."""
    conversations = [number % _CONVERSATIONS for number in range(_TURNS)]
    return [conversations[start : start + size] for start in range(0, _TURNS, size)]
