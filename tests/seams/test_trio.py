"""A server that runs on trio keeps its turns as one on asyncio does, and is cancelled as trio cancels."""

import threading
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from conftest import Activate
from mcp.server.mcpserver import MCPServer
from mcp_wire import announced_id, called, kept, text_of

from perdure import History, persisted
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.threads import Lane


def test_calls_that_come_at_once_are_kept_and_go_on_with_their_histories(activate: Activate, tmp_path: Path) -> None:
    server = MCPServer("on trio")

    @server.tool()
    @persisted
    async def chat(prompt: str, history: History) -> str:
        await anyio.sleep(0)
        return f"{[turn.prompt for turn in history]}"

    told: list[str] = []

    async def talk(number: int) -> None:
        first = await called(server, "chat", {"prompt": f"{number}"})
        second = await called(server, "chat", {"prompt": "next", "continuation_id": announced_id(first)})
        told.append(text_of(second))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(talk, number)

    with closing(SqliteStore(tmp_path / "trio.db")) as store:
        runtime = activate(store, spooled=True)
        anyio.run(main, backend="trio")
        assert sorted(told) == [f"['{number}']" for number in range(6)]
        assert len(kept(runtime)) == 12


def test_one_who_is_cancelled_has_what_he_waited_for_and_is_cancelled_at_what_he_awaits_next() -> None:
    begun, may_end, came = threading.Event(), threading.Event(), []

    def work() -> str:
        begun.set()
        assert may_end.wait(20)
        return "done"

    async def wait(lane: Lane) -> None:
        came.append(await lane.call_async(work, budget=20))
        await anyio.sleep(0)
        came.append("he went on")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, Lane("held"))
            while not begun.is_set():
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
            may_end.set()

    anyio.run(main, backend="trio")
    assert came == ["done"]


def test_who_waits_too_long_is_told_so() -> None:
    may_end = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await Lane("held").call_async(lambda: may_end.wait(20), budget=0.05)
        may_end.set()

    anyio.run(main, backend="trio")
