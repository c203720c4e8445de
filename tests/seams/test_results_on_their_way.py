"""What a decorated tool's server does with its value before it goes out is what is recorded, and what is announced."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, TextContent

from perdure import Outcome, Turn, persisted
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.settings import Settings

ID = "perdure/continuation-id"


async def chat(prompt: str) -> str:
    return f"answered {prompt}"


def chat_in_thread(prompt: str) -> str:
    return f"answered {prompt}"


class Changing(MCPServer):
    async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
        result: Any = await super().call_tool(*args, **kwargs)
        return result.model_copy(update={"content": [*result.content, TextContent(type="text", text="and signed")]})


class Failing(MCPServer):
    async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
        await super().call_tool(*args, **kwargs)
        raise ValueError("the server itself is broken")


class Slow(MCPServer):
    async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
        result = await super().call_tool(*args, **kwargs)
        await anyio.sleep(60)
        return result


def in_memory(folder: Path) -> wiring.Runtime:
    return wiring.build(Settings(data_dir=folder), store=MemoryStore())


def only_turn(runtime: wiring.Runtime) -> Turn:
    [conversation] = runtime.engine.conversations()
    [turn] = runtime.engine.turns("local", conversation.continuation_id)
    return turn


async def called(server: MCPServer, runtime: wiring.Runtime) -> CallToolResult:
    with wiring.activated(runtime):
        async with Client(server) as client:
            return await client.call_tool("chat", {"prompt": "hi"})


@pytest.mark.parametrize("body", [chat, chat_in_thread])
async def test_what_a_server_adds_to_a_tools_result_is_recorded_with_it(body: Any, tmp_path: Path) -> None:
    server, runtime = Changing("changing", log_level="ERROR"), in_memory(tmp_path)
    server.tool(name="chat")(persisted(body))
    result = await called(server, runtime)
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    assert texts[:2] == ["answered hi", "and signed"]
    turn = only_turn(runtime)
    assert turn.answer is not None
    assert turn.answer.text == "answered hi\n\nand signed"
    assert (result.meta or {})[ID] == turn.continuation_id
    assert turn.continuation_id in texts[2]


@pytest.mark.parametrize("body", [chat, chat_in_thread])
async def test_a_turn_whose_server_fails_after_the_body_has_failed(body: Any, tmp_path: Path) -> None:
    server, runtime = Failing("failing", log_level="CRITICAL"), in_memory(tmp_path)
    server.tool(name="chat")(persisted(body))
    result = await called(server, runtime)
    assert result.is_error
    assert only_turn(runtime).outcome is Outcome.FAILED
    assert runtime.engine.running.count == 0


async def test_a_turn_whose_call_is_cancelled_after_the_body_was_cancelled(tmp_path: Path) -> None:
    server, runtime = Slow("slow", log_level="ERROR"), in_memory(tmp_path)
    server.tool(name="chat")(persisted(chat))
    with wiring.activated(runtime):
        async with Client(server) as client:
            with anyio.move_on_after(0.5):
                await client.call_tool("chat", {"prompt": "hi"})
            for _ in range(100):
                if only_turn(runtime).outcome is not Outcome.RUNNING:
                    break
                await anyio.sleep(0.05)
    assert only_turn(runtime).outcome is Outcome.CANCELLED
    assert runtime.engine.running.count == 0


async def test_a_value_that_the_server_cannot_convert_is_a_failed_turn(tmp_path: Path) -> None:
    async def chat(prompt: str) -> int:
        return prompt  # type: ignore[return-value]

    server, runtime = MCPServer("converting", log_level="CRITICAL"), in_memory(tmp_path)
    server.tool(name="chat")(persisted(chat))
    assert (await called(server, runtime)).is_error
    assert only_turn(runtime).outcome is Outcome.FAILED


async def test_a_server_that_is_told_from_python_to_call_a_tool_gets_an_announced_result(tmp_path: Path) -> None:
    server, runtime = MCPServer("told", log_level="ERROR"), in_memory(tmp_path)
    server.tool(name="chat")(persisted(chat))
    with wiring.activated(runtime):
        result: Any = await server.call_tool("chat", {"prompt": "hi"})
    assert result.meta[ID] == only_turn(runtime).continuation_id
