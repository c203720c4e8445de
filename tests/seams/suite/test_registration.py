"""How tools and perdure come together within one process, in whatever order."""

from collections.abc import Sequence
from typing import Any

import pytest
from seams.suite.conversing_tools import conversing
from seams.worlds.world import Kit, Limit, Tool, Way, World
from wire_form import announced_id

from perdure import DecoratorError, install, persisted

pytestmark = pytest.mark.in_this_process


def _none(_: Kit) -> Sequence[Tool]:
    return []


async def test_tools_registered_while_a_client_is_connected_are_persisted_too(world: World) -> None:
    with world.running():
        server = world.server(_none)
        async with world.kind.connect(server) as client:
            assert await client.list_tools() == []
            world.add(server, conversing)
            result = await client.call_tool("chat", {"prompt": "a"})
            entries = await client.list_tools()
    assert len(world.turns()) == 1
    assert result["_meta"]["perdure/persisted"] is True
    listed = {entry["name"]: entry["inputSchema"]["properties"] for entry in entries}
    assert ("continuation_id" in listed["chat"]) is not world.has(Limit.NOT_IN_LIST)


async def test_a_tool_decorated_and_named_by_the_operator_is_recorded_and_announced_once(world: World) -> None:
    settings = {"defaults": {"enabled": True}}
    decorated = World(world.kind, Way.DECORATOR)
    with decorated.running(settings):
        server = decorated.server(conversing)
        install(server)
        async with world.kind.connect(server) as client:
            [entry] = [entry for entry in await client.list_tools() if entry["name"] == "chat"]
            result = await client.call_tool("chat", {"prompt": "a"})
    [turn] = world.turns()
    assert turn.id == result["_meta"]["perdure/turn-id"]
    assert len([block for block in result["content"] if "[continuation_id: " in block["text"]]) == 1
    assert result["structuredContent"]["continuation_id"] == announced_id(result)
    assert "continuation_id" in entry["inputSchema"]["properties"]


async def test_installing_twice_is_as_installing_once(world: World) -> None:
    settings = {"defaults": {"enabled": True}}
    with world.running(settings):
        server = world.server(conversing)
        install(server)
        install(server, tools=["chat"])
        async with world.kind.connect(server) as client:
            result = await client.call_tool("chat", {"prompt": "a"})
    assert len(world.turns()) == 1
    assert len([block for block in result["content"] if "[continuation_id: " in block["text"]]) == 1


async def test_only_the_tools_that_code_names_are_persisted(world: World) -> None:
    with world.bare.running({"defaults": {}}):
        _write_nothing(world)
        server = world.bare.server(conversing)
        install(server, tools=["chat"])
        async with world.kind.connect(server) as client:
            for tool in ("chat", "chat_plainly"):
                await client.call_tool(tool, {"prompt": "a"})
    assert [turn.tool for turn in world.turns()] == ["chat"]


def _write_nothing(world: World) -> None:
    World(world.kind, Way.DECORATOR).write_settings()


def test_the_decorator_above_the_registration_is_refused_with_what_to_do(world: World) -> None:
    made = world.kind.server([], lambda handler: handler)
    if world.has(Limit.NO_TOOL_DECORATOR):
        assert not hasattr(made, "tool")
        return
    with pytest.raises(DecoratorError, match="directly below @mcp.tool"):

        @persisted
        @made.tool()
        async def chat(prompt: str) -> str:
            return prompt


@pytest.mark.parametrize("thing", [None, "server", object(), conversing], ids=lambda thing: type(thing).__name__)
def test_what_is_no_server_is_refused_in_words(thing: Any, world: World) -> None:
    with pytest.raises(TypeError, match="install\\(\\) takes"):
        install(thing)
