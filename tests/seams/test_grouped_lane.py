"""What comes at once is done by one thread, and nobody waits for another's trouble."""

import asyncio
import gc
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar

import anyio
import pytest

from perdure.middleware.persistence import grouped_lane
from perdure.middleware.persistence.grouped_lane import GroupedLane
from perdure.middleware.persistence.jobs import Job
from perdure.middleware.persistence.threads import Lane, LaneFull

of_the_caller: ContextVar[str] = ContextVar("of_the_caller", default="nobody")


class Work:
    """Doubles numbers; says which it was given together, and where."""

    def __init__(self, size: int = 8, *, hanging_after: float = 1.0) -> None:
        self.lane = Lane("test", size, hanging_after=hanging_after)
        self.grouped = GroupedLane(self.lane, self._alone, self._together, most=64)
        self.alone: list[int] = []
        self.together: list[list[int]] = []
        self.threads: list[int] = []
        self.contexts: list[str] = []
        self.apart: set[int] = set()
        """Of these nothing is said among others."""
        self.before: Callable[[list[int]], object] = lambda _: None
        self._pool = ThreadPoolExecutor(32)

    def _alone(self, number: int) -> int:
        self.before([number])
        self.alone.append(number)
        self.threads.append(threading.get_ident())
        self.contexts.append(of_the_caller.get())
        return 2 * number

    def _together(self, numbers: Sequence[int], contexts: Sequence[Context]) -> list[int | None]:
        self.before(list(numbers))
        self.together.append(list(numbers))
        self.threads.append(threading.get_ident())
        self.contexts += [context.run(of_the_caller.get) for context in contexts]
        return [None if number in self.apart else 2 * number for number in numbers]

    def done(self) -> list[int]:
        return [*self.alone, *(number for group in self.together for number in group)]

    def ask(self, number: int, budget: float = 10.0) -> "Future[int]":
        return self._pool.submit(self.grouped.call, number, budget=budget)


def _until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def _all_of(work: Work, numbers: Sequence[int], budget: float = 10.0) -> dict[int, object]:
    """Asked on one event loop, in one go."""
    came: dict[int, object] = {}

    async def ask(number: int) -> None:
        of_the_caller.set(f"caller of {number}")
        try:
            came[number] = await work.grouped.call_async(number, budget=budget)
        except Exception as error:
            came[number] = error

    async with anyio.create_task_group() as tasks:
        for number in numbers:
            tasks.start_soon(ask, number)
    return came


async def test_what_came_while_no_thread_was_free_is_done_in_groups_and_each_gets_its_own() -> None:
    work = Work(size=1)
    let_go = threading.Event()
    work.before = lambda numbers: numbers == [0] and assert_set(let_go)
    came: dict[int, object] = {}

    async def ask_many() -> None:
        came.update(await _all_of(work, range(1, 201)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_all_of, work, [0])
        while not work.lane._running:
            await anyio.sleep(0.001)
        tasks.start_soon(ask_many)
        while len(work.grouped._waiting) < 200:
            await anyio.sleep(0.001)
        let_go.set()
    assert came == {number: 2 * number for number in range(1, 201)}
    assert [len(group) for group in work.together] == [64, 64, 64, 8]
    assert sorted(work.done()) == list(range(201))


async def test_what_comes_while_a_group_is_under_way_is_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_lane, "_PATIENCE", 20.0)
    work = Work()
    let_go = threading.Event()
    work.before = lambda numbers: numbers == [0] and assert_set(let_go)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_all_of, work, [0])
        while not work.grouped._under_way:
            await anyio.sleep(0.001)
        for number in range(1, 6):  # one after the other, with time for a thread to take each
            tasks.start_soon(_all_of, work, [number])
            await anyio.sleep(0.005)
        let_go.set()
    assert work.alone == [0]
    assert work.together == [[1, 2, 3, 4, 5]]


async def test_one_that_comes_by_itself_is_done_by_itself_in_the_context_of_who_asked() -> None:
    work = Work()
    assert await _all_of(work, [7]) == {7: 14}
    assert (work.alone, work.together, work.contexts) == ([7], [], ["caller of 7"])


async def test_each_of_a_group_has_the_context_of_who_asked() -> None:
    work = Work()
    await _all_of(work, range(20))
    assert sorted(work.contexts) == sorted(f"caller of {number}" for number in range(20))


async def test_what_is_left_out_is_done_alone_and_holds_up_none_of_the_others() -> None:
    work = Work()
    others_are_done, answered = threading.Event(), []

    def wait_for_the_others(numbers: list[int]) -> None:
        if numbers == [3]:
            assert others_are_done.wait(10)

    work.apart, work.before = {3}, wait_for_the_others

    async def ask(number: int) -> None:
        answered.append(await work.grouped.call_async(number, budget=10))
        if len(answered) == 9:
            others_are_done.set()

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(ask, number)
    assert answered[-1] == 6
    assert work.alone[-1] == 3


async def test_what_goes_wrong_with_a_group_is_told_to_each_of_it() -> None:
    work = Work()

    def fail(numbers: list[int]) -> None:
        raise OSError(f"{len(numbers)} of them")

    work.before = fail
    came = await _all_of(work, range(10))
    assert [type(error) for error in came.values()] == [OSError] * 10


async def test_of_an_error_that_all_are_told_each_sees_nothing_of_the_others() -> None:
    work = Work()

    def fail(_: list[int]) -> None:
        raise OSError("away")

    work.before = fail
    seen: list[tuple[int, str]] = []

    async def ask(number: int) -> None:
        try:
            if number % 2:
                await work.grouped.call_async(number, budget=10)
            try:
                raise ValueError("of an even one")
            except ValueError:
                await work.grouped.call_async(number, budget=10)
        except OSError as error:
            lines = traceback.extract_tb(error.__traceback__)
            seen.append((sum(line.name == "ask" for line in lines), repr(error.__context__) if number % 2 else ""))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(ask, number)
    assert sorted(seen) == [(1, "")] * 5 + [(1, "None")] * 5


async def test_a_group_that_hangs_keeps_nobody_who_comes_later() -> None:
    work = Work()
    let_go, came = threading.Event(), {}
    hung: list[int] = []

    def hang_once(numbers: list[int]) -> None:
        if not hung:
            hung.extend(numbers)
            assert let_go.wait(10)

    work.before = hang_once
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_all_of, work, [1, 2, 3])
        while not hung:
            await anyio.sleep(0.001)
        came = await _all_of(work, [4, 5, 6])
        assert not let_go.is_set()
        let_go.set()
    assert came == {4: 8, 5: 10, 6: 12}


async def test_who_waits_longer_than_his_budget_is_told_and_his_job_is_done_all_the_same() -> None:
    work = Work()
    let_go = threading.Event()
    said: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    work.before = lambda _: assert_set(let_go)
    came = await _all_of(work, [1, 2, 3], budget=0.05)
    assert [type(error) for error in came.values()] == [TimeoutError] * 3
    let_go.set()
    while sorted(work.done()) != [1, 2, 3] or work.lane._running:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    assert not said  # nobody is told of what he does not wait for any more


async def test_nobody_is_let_in_where_every_thread_hangs_and_nothing_is_done_for_him_later() -> None:
    work = Work(size=2, hanging_after=0.0)
    let_go = threading.Event()
    work.before = lambda _: assert_set(let_go)
    for number in (1, 2):
        assert isinstance((await _all_of(work, [number], budget=0.05))[number], TimeoutError)
    assert isinstance((await _all_of(work, [3]))[3], LaneFull)
    let_go.set()
    _until(lambda: sorted(work.alone) == [1, 2])
    assert await _all_of(work, [4]) == {4: 8}
    assert 3 not in work.done()


async def test_nobody_is_let_in_behind_a_group_that_waits_for_threads_which_hang() -> None:
    work = Work(size=1, hanging_after=0.2)
    let_go = threading.Event()
    work.before = lambda _: assert_set(let_go)
    for number in (1, 2):  # The second finds the thread at work, and no reason yet to give it up.
        assert isinstance((await _all_of(work, [number], budget=0.02))[number], TimeoutError)
    await asyncio.sleep(0.3)
    came = await _all_of(work, range(3, 20))
    assert [type(error) for error in came.values()] == [LaneFull] * 17
    let_go.set()
    _until(lambda: sorted(work.alone) == [1, 2])
    assert await _all_of(work, [20]) == {20: 40}


async def test_those_for_whom_no_thread_can_be_had_any_more_are_told_so_and_the_others_are_done() -> None:
    work = Work(size=1)
    let_go = threading.Event()
    work.grouped._most = 2
    work.lane.submit(Job(lambda: assert_set(let_go)))

    async def let_them_begin_late() -> None:
        while len(work.grouped._waiting) < 5:
            await asyncio.sleep(0.001)
        work.lane.hanging_after = 0.0  # as if the process had been stopped in the moment in which a thread began
        let_go.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(let_them_begin_late)
        came = await _all_of(work, range(5), budget=2.0)
    assert [came[number] for number in (0, 1)] == [0, 2]
    assert [type(came[number]) for number in (2, 3, 4)] == [LaneFull] * 3


async def test_what_is_done_together_is_done_in_the_context_of_none_of_them() -> None:
    work = Work()
    seen: list[str] = []
    work.before = lambda numbers: len(numbers) > 1 and seen.append(of_the_caller.get())
    await _all_of(work, range(200))
    assert set(seen) == {"nobody"}


async def test_nothing_is_kept_of_who_was_served_by_a_thread_that_has_nothing_more_to_do() -> None:
    work = Work()

    class Held:
        pass

    held = ContextVar[Held]("held")

    async def ask() -> "weakref.ref[Held]":
        held.set(Held())
        await work.grouped.call_async(1, budget=10)
        await work.lane.call_async(lambda: 1, budget=10)
        return weakref.ref(held.get())

    kept = await asyncio.create_task(ask())
    while work.lane._running:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    gc.collect()
    assert kept() is None


def test_a_lane_outlives_a_system_that_gives_it_no_threads_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(size=2)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for number in range(4):
            with pytest.raises(RuntimeError, match="thread"):
                work.grouped.call(number, budget=1)
    assert work.grouped.call(5, budget=5) == 10
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert [work.grouped.call(number, budget=5) for number in range(4)] == [0, 2, 4, 6]  # There is one.
    assert work.done() == [5, 0, 1, 2, 3]


def assert_set(event: threading.Event) -> None:
    assert event.wait(10)


def test_threads_that_wait_are_served_together_with_others() -> None:
    work = Work()
    taken, let_go = threading.Event(), threading.Event()

    def hold_the_first(numbers: list[int]) -> None:
        if numbers == [0]:
            taken.set()
            assert let_go.wait(10)

    work.before = hold_the_first
    first = work.ask(0)
    assert taken.wait(10)
    futures = [work.ask(number) for number in range(1, 20)]
    assert [future.result(10) for future in futures] == [2 * number for number in range(1, 20)]
    let_go.set()
    assert first.result(10) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    work = Work()
    work.grouped._is_asked_for = True  # as in the moment in which a thread of the parent is on its way
    child = os.fork()
    if child == 0:
        os._exit(0 if work.grouped.call(21, budget=5) == 42 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
