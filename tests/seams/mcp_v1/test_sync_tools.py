"""Synchronous tools run on the event loop. What perdure does around them must end, whatever the store does."""

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Activate
from mcp.server.fastmcp import Context, FastMCP
from mcp.shared.memory import create_connected_server_and_client_session as connected

from perdure import Outcome, install, persisted
from perdure.middleware import call_files
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.testing import FaultyStore

LARGE = 12_000_000
"""Bytes: more than what is worth a report."""


def _server(handler: Any, *, hooked: bool = False) -> FastMCP:
    mcp = FastMCP("sync")
    mcp.add_tool(handler if hooked else persisted(handler))
    if hooked:
        install(mcp, tools=[handler.__name__])
    return mcp


async def _called(server: FastMCP, tool: str, arguments: dict[str, Any], heard: list[float] | None = None) -> Any:
    async def note(progress: float, _total: float | None, _message: str | None) -> None:
        if heard is not None:
            heard.append(progress)

    async with connected(server) as client:
        return await client.call_tool(tool, arguments, progress_callback=None if heard is None else note)


async def test_a_store_that_hangs_holds_the_loop_no_longer_than_its_budget(activate: Activate) -> None:
    store = FaultyStore(MemoryStore(), blocking=True)
    hang = store.hang("begin", times=1)
    activate(store, operation_timeout=0.2)

    def chat(prompt: str) -> str:
        return f"<{prompt}>"

    try:
        result = await asyncio.wait_for(_called(_server(chat), "chat", {"prompt": "a"}), 10)
        assert result.content[0].text == "<a>"
        assert result.meta["perdure/persisted"] is False
        again = await asyncio.wait_for(_called(_server(chat), "chat", {"prompt": "b"}), 10)
        assert again.meta["perdure/persisted"] is True
    finally:
        hang.release()


@pytest.fixture
def _every_piece_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """To perdure a second passes with every look at the clock; else a fast machine has nothing to report."""
    seconds = itertools.count()
    clock = type("Clock", (), {"monotonic": staticmethod(lambda: float(next(seconds)))})
    monkeypatch.setattr(call_files, "time", clock)


@pytest.mark.usefixtures("_every_piece_is_reported")
async def test_a_large_file_of_a_sync_tool_is_kept_without_waiting_for_the_loop_that_waits_for_it(
    activate: Activate, tmp_path: Path
) -> None:
    activate()
    (path := tmp_path / "large.bin").write_bytes(b"x" * LARGE)

    def give() -> str:
        return str(path)

    started, heard = time.monotonic(), list[float]()
    result = await _called(_server(give), "give", {}, heard)
    assert result.content[0].text.startswith("storage://")
    assert heard == []
    assert time.monotonic() - started < 60  # the time that files have: a report that waits would use it up


@pytest.mark.usefixtures("_every_piece_is_reported")
@pytest.mark.parametrize("hooked", [False, True], ids=["decorator", "hook"])
async def test_the_files_of_an_async_tool_are_reported_above_its_own_progress(
    hooked: bool, activate: Activate, tmp_path: Path
) -> None:
    activate()
    (path := tmp_path / "large.bin").write_bytes(b"x" * LARGE)

    async def give(ctx: Context) -> str:  # type: ignore[type-arg]
        await ctx.report_progress(7, 10, "nearly")
        return str(path)

    heard: list[float] = []
    result = await _called(_server(give, hooked=hooked), "give", {}, heard)
    assert result.content[0].text.startswith("storage://")
    assert heard[0] == 7
    assert len(heard) > 5
    assert all(before < after for before, after in itertools.pairwise(heard))
    assert heard[-1] < 8


async def test_nothing_is_reported_to_a_client_that_did_not_ask(activate: Activate) -> None:
    activate()
    sessions: list[str] = []

    async def chat(ctx: Context) -> str:  # type: ignore[type-arg]
        sessions.append(type(ctx.request_context.session).__name__)
        return "a"

    await _called(_server(chat), "chat", {})
    assert sessions == ["ServerSession"]


async def test_a_sync_tool_that_is_under_way_is_not_stopped_by_its_cancellation(activate: Activate) -> None:
    """The loop that would hear of it runs the tool."""
    runtime = activate()

    def chat() -> str:
        time.sleep(0.3)
        return "done"

    async with connected(_server(chat)) as client:
        call = asyncio.ensure_future(client.call_tool("chat", {}))
        await asyncio.sleep(0.1)
        call.cancel()
        await client.send_ping()
    [line] = runtime.engine.conversations()
    [turn] = runtime.engine.turns(line.principal, line.continuation_id)
    assert turn.outcome in (Outcome.ANSWERED, Outcome.CANCELLED)
    assert turn.answer is not None
