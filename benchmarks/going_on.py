"""Turns a second on many conversations at once, each going on by itself: of perdure as of every peer."""

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

__all__ = ["at_once", "by_threads"]


def by_threads(
    turn: Callable[[str], object], pool: ThreadPoolExecutor, names: Sequence[str], turns: int, *, threads: int
) -> Callable[[], float]:
    """Each of `threads` goes on with its share of the conversations, one turn after the other; `turns` in all.

    The pool's threads live as long as the benchmark, as a server's do.
    """
    ready = threading.Barrier(threads + 1)

    def take_turns(first: int) -> None:
        ready.wait()
        for number in range(first, turns, threads):
            turn(names[number % len(names)])

    def measure() -> float:
        jobs = [pool.submit(take_turns, first) for first in range(threads)]
        ready.wait()
        started = time.perf_counter()
        for job in jobs:
            job.result()
        return turns / (time.perf_counter() - started)

    return measure


def at_once(
    turn: Callable[[str], Awaitable[object]], runner: asyncio.Runner, names: Sequence[str], turns: int
) -> Callable[[], float]:
    """Each conversation goes on, one turn after the other, as a task of one event loop: so a server has its calls, and
    so the peers are driven. `turns` in all. The loop lives as long as the benchmark.
    """

    async def take_turns(name: str) -> None:
        for _ in range(turns // len(names)):
            await turn(name)

    async def take_all() -> None:
        await asyncio.gather(*map(take_turns, names))

    def measure() -> float:
        gc.collect()
        started = time.perf_counter()
        runner.run(take_all())
        return turns / (time.perf_counter() - started)

    return measure
