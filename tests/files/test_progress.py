"""Work on a large file reports MCP progress to a client that asked for it, and to no other. It only ever rises."""

import itertools
from pathlib import Path
from typing import Any

import anyio
import pytest
from files.conftest import Json, Place, texts
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer

from perdure import persisted
from perdure.middleware import call_files
from perdure.middleware.persistence.files import snapshot
from perdure.middleware.sdk.interface import IncomingRequest
from perdure.middleware.sdk.mcp_v2 import reporter

LARGE = 12_000_000
"""Bytes: some pieces of a megabyte, and more than what is worth a report."""

both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])


@pytest.fixture(autouse=True)
def _every_piece_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """To perdure a second passes with every look at the clock; else a fast machine has nothing to report."""
    seconds = itertools.count()
    clock = type("Clock", (), {"monotonic": staticmethod(lambda: float(next(seconds)))})
    monkeypatch.setattr(call_files, "time", clock)


class Listener:
    """A client, and what it was told while it waited for one call."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str | None]] = []

    async def call(self, server: MCPServer, tool: str, arguments: Json | None = None, mode: str = "auto") -> Json:
        async def note(progress: float, total: float | None, message: str | None) -> None:
            self.told.append((progress, message))

        async with Client(server, mode=mode) as client:
            result = await client.call_tool(tool, arguments, progress_callback=note)
            await anyio.wait_all_tasks_blocked()
            return result.model_dump(by_alias=True, mode="json", exclude_none=True)

    @property
    def values(self) -> list[float]:
        return [progress for progress, _ in self.told]

    @property
    def of_files(self) -> list[str]:
        return [message for _, message in self.told if message and " MB" in message]

    def rose_strictly(self) -> bool:
        return all(before < after for before, after in itertools.pairwise(self.values))


@pytest.fixture
def listener() -> Listener:
    return Listener()


def large(place: Place, name: str = "large.bin") -> Path:
    return place.file(name, name.encode() * (LARGE // len(name)))


@both_eras
async def test_keeping_a_large_file_is_reported(seamed: Place, listener: Listener, mode: str) -> None:
    path = large(seamed)

    def give() -> str:
        return str(path)

    result = await listener.call(seamed.server(give), "give", mode=mode)

    assert texts(result)[0].startswith("storage://")
    assert len(listener.of_files) >= 5
    assert "of 12 MB" in listener.of_files[0]
    assert listener.rose_strictly()


@both_eras
async def test_bringing_back_a_large_file_is_reported(seamed: Place, listener: Listener, mode: str) -> None:
    path = large(seamed)
    uri = texts(await seamed.given_out(str(path)))[0]

    def read(path: str) -> str:
        return str(Path(path).stat().st_size)

    result = await listener.call(seamed.server(read), "read", {"path": uri}, mode)

    assert texts(result) == [str(path.stat().st_size)]
    assert len(listener.of_files) >= 5
    assert listener.rose_strictly()


async def test_a_file_that_comes_in_and_one_that_goes_out_rise_together(seamed: Place, listener: Listener) -> None:
    uri = texts(await seamed.given_out(str(large(seamed))))[0]
    other = large(seamed, "other.bin")

    def convert(path: str) -> str:
        return str(other)

    await listener.call(seamed.server(convert), "convert", {"path": uri})

    assert len(listener.of_files) >= 10
    assert listener.rose_strictly(), listener.values


async def test_several_large_files_rise_together(seamed: Place, listener: Listener) -> None:
    paths = [str(large(seamed, f"{number}.bin")) for number in range(3)]
    uris = texts(await seamed.given_out(paths, list[str]))

    def both(incoming: list[str]) -> list[str]:
        return paths

    await listener.call(seamed.server(both), "both", {"incoming": uris})

    assert len(listener.of_files) >= 30
    assert listener.rose_strictly(), listener.values


@both_eras
async def test_the_tools_own_progress_stays_as_it_is_and_ours_lies_around_it(
    place: Place, listener: Listener, mode: str
) -> None:
    uri = texts(await place.given_out(str(large(place))))[0]
    other = large(place, "other.bin")
    own = [0, 1, 2.5, 50, 100]
    server = MCPServer("own")

    @server.tool()
    @persisted
    async def work(path: str, ctx: Context) -> str:
        for value in own:
            await ctx.report_progress(value, 100, f"step {value}")
        return str(other)

    await listener.call(server, "work", {"path": uri}, mode)

    assert [(value, text) for value, text in listener.told if text and text.startswith("step")] == [
        (float(value), f"step {value}") for value in own
    ]
    assert listener.rose_strictly(), listener.values
    first, last = listener.told[0][1], listener.told[-1][1]
    assert first is not None
    assert last is not None
    assert first.startswith("bringing back")
    assert last.startswith("keeping")


async def test_a_tool_that_reports_in_threads_of_its_own_is_still_followed_upwards(
    place: Place, listener: Listener
) -> None:
    other = large(place, "other.bin")
    server = MCPServer("own")

    @server.tool()
    @persisted
    async def work(ctx: Context) -> str:
        async with anyio.create_task_group() as group:
            for value in range(1, 6):
                group.start_soon(ctx.report_progress, value)
        return str(other)

    await listener.call(server, "work")
    after = [progress for progress, message in listener.told if message and " MB" in message]
    assert min(after) > 5
    assert after == sorted(set(after))


async def test_a_file_that_has_to_be_read_again_does_not_fall_back(
    place: Place, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large(place)
    same = snapshot._same
    looks = itertools.count()
    # The first time it is found to have changed.
    monkeypatch.setattr(snapshot, "_same", lambda *statuses: next(looks) > 0 and same(*statuses))

    def give() -> str:
        return str(path)

    await listener.call(place.server(give), "give")
    assert len(listener.of_files) >= 10
    assert listener.rose_strictly(), listener.values


async def test_small_files_are_not_worth_a_report(seamed: Place, listener: Listener) -> None:
    path = seamed.file("small.bin", b"x" * 100_000)

    def give() -> str:
        return str(path)

    await listener.call(seamed.server(give), "give")
    assert listener.told == []


@pytest.mark.parametrize("token", [0, 1, "", "a token"])
async def test_any_token_that_the_protocol_admits_asks_for_progress(place: Place, token: Any) -> None:
    """A token is a string or an integer, and may be 0."""

    class Session:
        async def report_progress(self, *of: Any) -> None: ...

        async def send_progress_notification(self, *of: Any) -> None: ...

    class Request:
        session = Session()

    for name in ("progress_token", "progressToken"):
        request: Any = Request()
        request.meta = {name: token}
        assert reporter(IncomingRequest(request.session, {}, None, request)) is not None


@both_eras
async def test_a_client_that_did_not_ask_is_told_nothing(
    seamed: Place, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large(seamed)

    def give() -> str:
        return str(path)

    told: list[Any] = []

    async def note(message: Any) -> None:
        told.append(message)

    async with Client(seamed.server(give), mode=mode, message_handler=note) as client:
        await client.list_tools()
        told.clear()
        result = await client.call_tool("give")
        await anyio.wait_all_tasks_blocked()

    assert result.content[0].text.startswith("storage://")
    assert [message for message in told if "progress" in str(type(message)).lower()] == []


async def test_a_client_that_fails_to_listen_costs_nobody_anything(place: Place) -> None:
    path = large(place)

    def give() -> str:
        return str(path)

    async def fail(*of: Any) -> None:
        raise RuntimeError("not listening")

    async with Client(place.server(give)) as client:
        result = await client.call_tool("give", progress_callback=fail)
    assert result.content[0].text.startswith("storage://")
    assert result.meta["perdure/persisted"] is True
