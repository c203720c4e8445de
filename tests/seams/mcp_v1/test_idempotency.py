"""A call that is sent again under its idempotency key, through version 1's tools and servers."""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Activate
from mcp.server.fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp.shared.memory import create_connected_server_and_client_session as connected
from mcp.types import CallToolResult, TextContent, Tool

from perdure import install, persisted
from perdure.middleware.meta_keys import META_IDEMPOTENCY_KEY
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.settings import ToolSettings

SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}


class Counting:
    """A tool that counts how often its body ran."""

    def __init__(self) -> None:
        self.ran = 0

    def run(self, prompt: str) -> str:
        self.ran += 1
        return f"run {self.ran}: {prompt.splitlines()[-1]}"

    def asynchronous(self) -> Any:
        async def order(prompt: str) -> str:
            return self.run(prompt)

        return order

    def synchronous(self) -> Any:
        def order(prompt: str) -> str:
            return self.run(prompt)

        return order


def _decorated_async(counting: Counting) -> FastMCP:
    mcp = FastMCP("counting")
    mcp.add_tool(persisted(counting.asynchronous()))
    return mcp


def _decorated_sync(counting: Counting) -> FastMCP:
    mcp = FastMCP("counting")
    mcp.add_tool(persisted(counting.synchronous()))
    return mcp


def _hooked(counting: Counting) -> FastMCP:
    mcp = FastMCP("counting")
    mcp.add_tool(counting.synchronous())
    install(mcp, tools=["order"])
    return mcp


def _decorated_and_installed(counting: Counting) -> FastMCP:
    mcp = _decorated_sync(counting)
    install(mcp)
    return mcp


def _class_based(counting: Counting) -> Server[Any, Any]:
    class Order:
        name = "order"

        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            return [TextContent(type="text", text=counting.run(arguments["prompt"]))]

    server: Server[Any, Any] = Server("counting")

    @server.list_tools()  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
    async def list_tools() -> list[Tool]:
        return [Tool(name="order", inputSchema=SCHEMA)]

    @server.call_tool()  # type: ignore[untyped-decorator, unused-ignore]
    async def call_tool(_name: str, arguments: dict[str, Any]) -> Any:
        return await Order().execute(arguments)

    return server


Make = Callable[[Counting], Any]

every_way = pytest.mark.parametrize(
    "make", [_decorated_async, _decorated_sync, _hooked, _decorated_and_installed, _class_based]
)


async def _called(server: Any, prompt: str = "buy") -> CallToolResult:
    async with connected(server) as client:
        await client.list_tools()  # then the client holds the result against the output schema
        return await client.call_tool("order", {"prompt": prompt}, meta={META_IDEMPOTENCY_KEY: "order 7"})


def _said(result: CallToolResult) -> tuple[str, Any]:
    [block, *_] = result.content
    assert isinstance(block, TextContent)
    return block.text, result.structuredContent


@every_way
async def test_after_a_restart_the_answer_is_given_again_and_the_tool_does_not_run(
    make: Make, activate: Activate
) -> None:
    store = MemoryStore()
    activate(store, defaults=ToolSettings(replay=True))
    first = await _called(make(Counting()))
    activate(store, defaults=ToolSettings(replay=True))
    again = await _called(make(after := Counting()))
    assert _said(again) == _said(first)
    assert again.meta is not None
    assert again.meta["perdure/persisted"] is True
    assert after.ran == 0


@every_way
async def test_the_key_of_another_call_is_refused_in_words(make: Make, activate: Activate) -> None:
    activate(defaults=ToolSettings(replay=True))
    server = make(counting := Counting())
    await _called(server)
    refused = await _called(server, "sell")
    assert refused.isError
    assert "'order 7' was used before for another call" in _said(refused)[0]
    assert counting.ran == 1
