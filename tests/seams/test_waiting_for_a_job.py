"""Who waits on an event loop for what a thread does: cancelled or late, he is told so once, and when it is time."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from perdure.middleware.persistence.threads import Lane

of_the_caller: ContextVar[object] = ContextVar("of_the_caller")


class Held:
    """What a thread does until it is let go."""

    def __init__(self) -> None:
        self.lane = Lane("held")
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(20)
        return "done"

    def waited_for(self, budget: float = 20.0) -> Coroutine[Any, Any, str]:
        return self.lane.call_async(self, budget=budget)


async def _until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not there():
            await asyncio.sleep(0.001)


@pytest.fixture
def held() -> Held:
    return Held()


async def test_one_whose_task_is_cancelled_hears_of_it_when_it_is_done(held: Held) -> None:
    task = asyncio.create_task(held.waited_for())
    await _until(held.begun.is_set)
    task.cancel("enough")
    await asyncio.sleep(0.02)
    assert not task.done()
    held.may_end.set()
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert task.cancelling() == 1


async def test_a_time_out_of_the_callers_is_still_his(held: Held) -> None:
    async def wait() -> None:
        async with asyncio.timeout(0.01):
            await held.waited_for()

    threading.Timer(0.05, held.may_end.set).start()
    async with asyncio.timeout(20):  # which is not to hear of the one within
        with pytest.raises(TimeoutError):
            await wait()
        await asyncio.sleep(0)


async def test_one_whose_scope_is_cancelled_has_what_he_waited_for_and_hears_of_it_at_what_he_awaits_next(
    held: Held,
) -> None:
    came: list[str] = []

    async def wait() -> None:
        came.append(await held.waited_for())
        await anyio.sleep(0)
        came.append("he went on")

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await _until(held.begun.is_set)
            scope.cancel()
            with anyio.CancelScope(shield=True):
                before = _turns_of_the_loop()
                await asyncio.sleep(0.05)
                turns = _turns_of_the_loop() - before
            held.may_end.set()
    assert (came, scope.cancelled_caught) == (["done"], True)
    assert turns < 20, "the loop was kept busy"


@pytest.mark.parametrize("cancelled", ["before", "meanwhile"])
async def test_nothing_of_a_scope_that_was_cancelled_is_heard_after_it(held: Held, cancelled: str) -> None:
    """As a call's end is kept: in a scope that is cancelled, and with nothing awaited after it."""
    with anyio.CancelScope() as scope:
        if cancelled == "before":
            scope.cancel()
        threading.Timer(0.05, held.may_end.set).start()
        asyncio.get_running_loop().call_later(0.01, scope.cancel)
        assert await held.waited_for() == "done"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_one_who_is_cancelled_by_his_scope_and_as_a_task_hears_of_both(held: Held) -> None:
    async def wait() -> str:
        with anyio.CancelScope() as scope:
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, scope.cancel)
            loop.call_later(0.02, held.may_end.set)
            await held.waited_for()
            await anyio.sleep(0)
        return "he went on"

    task = asyncio.create_task(wait())
    await _until(held.begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _turns_of_the_loop() -> int:
    """How often it has looked for something to do, by what it took from its selector."""
    loop: Any = asyncio.get_running_loop()
    counted = loop._selector
    if not hasattr(counted, "turns"):
        counted.turns, select = 0, counted.select

        def counting(timeout: float | None = None) -> Any:
            counted.turns += 1
            return select(timeout)

        counted.select = counting
    turns: int = counted.turns
    return turns


@pytest.mark.parametrize("first", ["done", "cancelled"])
async def test_one_who_is_cancelled_just_when_it_is_done_hears_of_it_and_nothing_goes_wrong(
    held: Held, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = asyncio.create_task(held.waited_for())
    await _until(held.begun.is_set)
    loop = asyncio.get_running_loop()
    wrong: list[object] = []
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    soon = loop.call_soon_threadsafe

    def with_a_cancellation(end: Callable[..., object], *arguments: Any) -> None:
        def in_one_turn_of_the_loop() -> None:
            if first == "cancelled":
                task.cancel()
            end(*arguments)
            task.cancel()

        soon(in_one_turn_of_the_loop)

    monkeypatch.setattr(loop, "call_soon_threadsafe", with_a_cancellation)
    held.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 20)
    assert wrong == []


@pytest.mark.parametrize("cancelled", [False, True])
async def test_who_waits_too_long_is_told_so_cancelled_or_not(held: Held, cancelled: bool) -> None:
    with anyio.CancelScope() as scope:
        if cancelled:
            scope.cancel()
        with pytest.raises(TimeoutError):
            await held.waited_for(0.1)
    held.may_end.set()


async def test_a_task_that_is_cancelled_waits_no_longer_than_its_time(held: Held) -> None:
    task = asyncio.create_task(held.waited_for(0.1))
    await _until(held.begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 20)
    held.may_end.set()


async def test_each_has_a_time_of_his_own_whoever_came_first(held: Held) -> None:
    ended: list[str] = []

    async def wait(name: str, budget: float) -> None:
        with pytest.raises(TimeoutError):
            await held.waited_for(budget)
        ended.append(name)

    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(wait("long", 0.3), wait("short", 0.1), wait("between", 0.2))
    assert ended == ["short", "between", "long"]
    assert loop.time() - began >= 0.3
    with pytest.raises(TimeoutError):
        await held.waited_for(0.01)
    held.may_end.set()


async def test_nothing_of_who_waited_is_kept_until_his_time_would_have_been_over(held: Held) -> None:
    class Kept:
        pass

    async def wait() -> "weakref.ref[Kept]":
        kept = Kept()
        of_the_caller.set(kept)
        await held.waited_for(600)
        return weakref.ref(kept)

    task = asyncio.create_task(wait())
    held.may_end.set()
    kept = await task
    del task
    await held.waited_for(600)
    gc.collect()
    assert kept() is None


def test_each_event_loop_of_a_thread_has_its_own(held: Held) -> None:
    held.may_end.set()
    assert [asyncio.run(held.waited_for()) for _ in range(3)] == ["done"] * 3
    held.may_end.clear()
    with pytest.raises(TimeoutError):
        asyncio.run(held.waited_for(0.01))
    held.may_end.set()
