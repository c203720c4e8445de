"""A call's course is one, whether an event loop goes on meanwhile or a thread waits."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.middleware.call_steps import CallSteps
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.settings import Settings


class BlockingStore(MemoryStore):
    blocking = True


def steps_on(store: MemoryStore, folder: Path) -> CallSteps:
    runtime = wiring.build(Settings(data_dir=folder), store=store)
    return CallSteps(runtime, file_seconds=1, meta={})


@pytest.mark.parametrize("store", [MemoryStore(), BlockingStore()])
async def test_a_step_runs_where_its_store_wants_it_and_the_course_is_told_what_came_of_it(
    store: MemoryStore, tmp_path: Path
) -> None:
    steps = steps_on(store, tmp_path)

    async def course() -> int:
        first = await steps.store(threading.get_ident)
        assert await steps.disk(threading.get_ident) != first
        return first

    here = threading.get_ident()
    assert (steps.in_place(course()) == here) is not store.blocking
    assert not steps.have_waited
    assert (await course() == here) is not store.blocking
    assert steps.have_waited


def test_what_a_step_raises_comes_out_where_it_is_taken(tmp_path: Path) -> None:
    steps = steps_on(BlockingStore(), tmp_path)

    def fail() -> None:
        raise OSError("broken")

    async def course() -> str:
        try:
            await steps.store(fail)
        except OSError as error:
            return str(error)
        return "nothing"

    assert steps.in_place(course()) == "broken"


def test_a_course_that_awaits_anything_else_is_refused_where_nobody_could_go_on_with_it(tmp_path: Path) -> None:
    steps = steps_on(MemoryStore(), tmp_path)

    class Never:
        def __await__(self) -> Iterator[None]:
            yield

    async def waits() -> None:
        await Never()

    with pytest.raises(RuntimeError, match="has awaited something"):
        steps.in_place(waits())
    assert not steps.are_in_place
