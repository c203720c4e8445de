"""Clients of mcp 1.x are told when a tool of theirs was switched off or on, and are shown what holds then."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import ClientSession
from mcp.server.fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp.server.session import ServerSession
from mcp.shared.memory import create_connected_server_and_client_session
from mcp.types import (
    PaginatedRequestParams,
    ServerNotification,
    ToolListChangedNotification,
    ToolsCapability,
)
from seams.switching import OFF, ON, echo, ways, write

from perdure import install, persisted
from perdure.middleware.meta_keys import META_OPTIONS

pytestmark = pytest.mark.usefixtures("live_settings")


def _add(server: Any, handler: Any) -> None:
    server.add_tool(handler, name="chat")


hooked, decorated, both = ways(FastMCP, _add)


every_way = pytest.mark.parametrize("make", [hooked, decorated, both], ids=lambda make: make.__name__)


class Told:
    def __init__(self) -> None:
        self.notices = 0

    async def __call__(self, message: Any) -> None:
        told = isinstance(message, ServerNotification) and isinstance(message.root, ToolListChangedNotification)
        self.notices += told


@asynccontextmanager
async def connected(server: Any, told: Told | None = None) -> AsyncIterator[ClientSession]:
    async with create_connected_server_and_client_session(server, message_handler=told) as client:
        yield client


async def shows_id(client: ClientSession) -> bool:
    [tool] = (await client.list_tools()).tools
    return "continuation_id" in tool.inputSchema["properties"]


async def promised(server: Any) -> ToolsCapability | None:
    return server._mcp_server.create_initialization_options().capabilities.tools  # type: ignore[no-any-return]


@every_way
async def test_an_open_session_is_told_once_when_a_schema_changed_and_never_else(make: Callable[[], FastMCP]) -> None:
    server, told, bystander = make(), Told(), Told()
    async with connected(server, bystander) as other, connected(server, told) as client:
        await other.list_prompts()
        assert await shows_id(client)
        assert (told.notices, bystander.notices) == (0, 0)
        write("[defaults]\nmax_turns = 3")  # shows nowhere in a schema
        await client.list_prompts()
        write(OFF)
        for _ in range(3):
            await client.call_tool("chat", {"text": "a"})
        await other.list_prompts()
        assert (told.notices, bystander.notices) == (1, 1)
        assert not await shows_id(client)
        write(ON)
        await other.list_prompts()
        await client.list_prompts()
        assert (told.notices, bystander.notices) == (2, 2)
        assert await shows_id(client)


@every_way
async def test_a_server_with_a_tool_of_ours_promises_to_tell(make: Callable[[], FastMCP]) -> None:
    assert await promised(make()) == ToolsCapability(listChanged=True)


async def test_a_server_without_a_tool_of_ours_promises_no_changes() -> None:
    server = FastMCP("plain")
    server.add_tool(echo, name="chat")
    assert await promised(server) == ToolsCapability(listChanged=False)


@every_way
async def test_a_server_promises_no_changes_where_perdure_is_switched_off(
    make: Callable[[], FastMCP], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_ENABLED", "false")
    assert await promised(make()) == ToolsCapability(listChanged=False)


async def test_a_hooked_low_level_server_promises_to_tell() -> None:
    server: Server[Any, Any] = Server("lowlevel")

    @server.list_tools()  # type: ignore[no-untyped-call]
    async def list_tools() -> list[Any]:
        return []

    assert server.create_initialization_options().capabilities.tools == ToolsCapability(listChanged=False)
    install(server)
    assert server.create_initialization_options().capabilities.tools == ToolsCapability(listChanged=True)


async def test_a_client_that_has_gone_or_does_not_read_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    server = decorated()
    async with connected(server) as gone:
        await gone.list_tools()

    async def never(self: ServerSession) -> None:
        await anyio.sleep_forever()

    async with connected(server) as client:
        await client.list_tools()
        monkeypatch.setattr(ServerSession, "send_tool_list_changed", never)
        write(OFF)
        with anyio.fail_after(5):
            result = await client.call_tool("chat", {"text": "a"})
        assert result.content[0].text == "a"  # type: ignore[union-attr]


async def test_a_local_client_that_asks_is_told_what_the_code_says_of_its_tools() -> None:
    server = FastMCP("options")
    server.add_tool(persisted(max_turns=3)(echo), name="chat")
    async with connected(server) as client:
        params = PaginatedRequestParams.model_validate({"_meta": {META_OPTIONS: True}})
        asked = await client.list_tools(params=params)
        assert (asked.meta or {})[META_OPTIONS]["chat"]["options"] == {"max_turns": 3}
        assert (await client.list_tools()).meta is None


@pytest.mark.parametrize("arguments", [{"text": "a"}, {"text": "a", "continuation_id": "from before"}], ids=str)
async def test_switched_off_a_decorated_tool_answers_as_the_bare_one_does(arguments: dict[str, str]) -> None:
    write(OFF)
    async with connected(decorated()) as client:
        result = await client.call_tool("chat", arguments)
    assert result.meta is None
    assert result.content[0].text == "a"  # type: ignore[union-attr]
