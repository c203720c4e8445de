"""Which conversation a call belongs to."""

import uuid

import pytest
from seams.suite.conversing_tools import conversing, declaring, nested
from seams.worlds.world import Json, World
from wire_form import announced_id, text_of

IN_META = "perdure/continuation-id"


async def test_a_call_that_names_no_conversation_begins_one_under_a_random_id(world: World) -> None:
    async with world.serve(conversing) as client:
        ids = {announced_id(await client.call_tool("chat", {"prompt": "a"})) for _ in range(3)}
    assert len(ids) == 3
    assert all(uuid.UUID(identity).version == 4 for identity in ids)
    assert {turn.continuation_id for turn in world.turns()} == ids


@pytest.mark.parametrize("tool", ["chat", "chat_plainly"])
async def test_the_id_in_the_argument_continues_a_conversation(tool: str, world: World) -> None:
    async with world.serve(conversing) as client:
        identity = announced_id(await client.call_tool(tool, {"prompt": "a"}))
        again = await client.call_tool(tool, {"prompt": "b", "continuation_id": identity})
    assert announced_id(again) == identity
    assert again["_meta"]["perdure/history"] == {"state": "loaded", "turns": 1, "omitted": 0}
    assert [(turn.place, turn.prompt) for turn in world.turns()] == [(1, "a"), (2, "b")]


async def test_the_id_in_meta_continues_a_conversation(world: World) -> None:
    async with world.serve(conversing) as client:
        identity = announced_id(await client.call_tool("chat", {"prompt": "a"}))
        again = await client.call_tool("chat", {"prompt": "b"}, meta={IN_META: identity})
    assert announced_id(again) == identity
    assert [turn.place for turn in world.turns()] == [1, 2]


async def test_the_argument_wins_over_meta(world: World) -> None:
    async with world.serve(conversing) as client:
        arguments = {"prompt": "a", "continuation_id": "argued"}
        assert announced_id(await client.call_tool("chat", arguments, meta={IN_META: "meant"})) == "argued"


async def test_an_id_that_nobody_knows_becomes_a_new_conversation_under_it(world: World) -> None:
    async with world.serve(conversing) as client:
        result = await client.call_tool("chat", {"prompt": "a", "continuation_id": "my-project"})
    assert announced_id(result) == "my-project"
    assert result["_meta"]["perdure/history"]["state"] == "new"


@pytest.mark.parametrize("named", ["", None, "x" * 201, "tab\there", " "], ids=repr)
async def test_an_id_that_cannot_be_used_begins_a_conversation_under_a_fresh_one(
    named: str | None, world: World
) -> None:
    async with world.serve(conversing) as client:
        result = await client.call_tool("chat", {"prompt": "a", "continuation_id": named})
    assert not result.get("isError")
    uuid.UUID(announced_id(result))
    assert text_of(result) == "<a>"


async def test_an_id_of_another_type_does_not_fail_the_call(world: World) -> None:
    async with world.serve(conversing) as client:
        result = await client.call_tool("chat", {"prompt": "a", "continuation_id": {"not": "text"}})
    assert not result.get("isError")
    uuid.UUID(announced_id(result))


async def test_the_id_is_not_among_the_arguments_that_are_kept(world: World) -> None:
    async with world.serve(conversing) as client:
        await client.call_tool("chat", {"prompt": "a", "continuation_id": "mine"})
    [turn] = world.turns()
    assert turn.arguments == {"prompt": "a"}


@pytest.mark.parametrize("arguments", [{}, {"continuation_id": "mine"}], ids=["none", "named"])
async def test_a_tool_that_declares_an_id_of_its_own_gets_it_and_is_listed_unchanged(
    arguments: Json, world: World
) -> None:
    async with world.bare.serve(declaring) as client:
        expected = await client.list_tools()
    async with world.serve(declaring) as client:
        entries = await client.list_tools()
        result = await client.call_tool("own", {"prompt": "a", **arguments})
    assert [entry["inputSchema"] for entry in entries] == [entry["inputSchema"] for entry in expected]
    assert text_of(result) == f"a {arguments.get('continuation_id')}"
    [turn] = world.turns()
    assert turn.arguments == {"prompt": "a", **arguments}
    assert turn.continuation_id == arguments.get("continuation_id", turn.continuation_id)


async def test_two_tools_share_a_conversation_by_its_id(world: World) -> None:
    async with world.serve(conversing) as client:
        identity = announced_id(await client.call_tool("chat", {"prompt": "a"}))
        await client.call_tool("ask", {"query": "b", "continuation_id": identity})
    assert [(turn.place, turn.tool) for turn in world.turns()] == [(1, "chat"), (2, "ask")]


async def test_a_decorated_function_called_by_another_tools_body_is_the_bare_function(world: World) -> None:
    async with world.serve(nested) as client:
        result = await client.call_tool("outer", {"prompt": "a"})
    assert text_of(result) == "<a>"
    assert [turn.tool for turn in world.turns()] == ["outer"]
