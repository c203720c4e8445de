"""Clients of fastmcp are told when a tool of theirs was switched off or on, and are shown what holds then."""

from collections.abc import Callable
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.tools import Tool
from mcp_types import ToolListChangedNotification
from seams.switching import OFF, ON, echo, ways, write

from perdure import persisted

pytestmark = pytest.mark.usefixtures("live_settings")


def _add(server: Any, handler: Any) -> None:
    server.add_tool(Tool.from_function(handler, name="chat"))


hooked, decorated, both = ways(FastMCP, _add)


def mounted() -> FastMCP:
    server = FastMCP("outer")
    server.mount(decorated())
    return server


def transformed() -> FastMCP:
    server = FastMCP("transformed")
    inner = Tool.from_function(persisted(echo), name="inner")
    server.add_tool(Tool.from_tool(inner, name="chat", description="Another one."))
    return server


every_way = pytest.mark.parametrize(
    "make", [hooked, decorated, both, mounted, transformed], ids=lambda make: make.__name__
)


class Told:
    def __init__(self) -> None:
        self.notices = 0

    async def __call__(self, message: Any) -> None:
        self.notices += isinstance(message, ToolListChangedNotification)


async def shows_id(client: Client) -> bool:
    [tool] = await client.list_tools()
    return "continuation_id" in tool.input_schema["properties"]


@every_way
async def test_an_open_session_is_told_once_when_a_schema_changed_and_shown_what_holds(
    make: Callable[[], FastMCP],
) -> None:
    server, told, bystander = make(), Told(), Told()
    async with (
        Client(server, message_handler=bystander, mode="legacy") as other,
        Client(server, message_handler=told, mode="legacy") as client,
    ):
        assert await shows_id(client)
        before, counted = (told.notices, bystander.notices), lambda: (told.notices, bystander.notices)
        write("[defaults]\nmax_turns = 3")  # shows nowhere in a schema
        await client.list_prompts()
        assert counted() == before
        write(OFF)
        for _ in range(3):
            await client.call_tool("chat", {"text": "a"})
        await other.list_prompts()
        assert counted() == tuple(each + 1 for each in before)
        assert not await shows_id(client)
        write(ON)
        await other.list_prompts()
        await client.list_prompts()
        assert counted() == tuple(each + 2 for each in before)
        assert await shows_id(client)
