"""Where a client can see the id, and where not. The client holds every result against the output schema."""

import pytest
from seams.suite.conversing_tools import conversing, strict
from seams.worlds.world import Limit, Way, World
from wire_form import Json, announced_id


def _places(result: Json) -> set[str]:
    places = set()
    if "perdure/continuation-id" in result.get("_meta", {}):
        places.add("meta")
    if "continuation_id" in (result.get("structuredContent") or {}):
        places.add("structured")
    if any("[continuation_id: " in block.get("text", "") for block in result["content"]):
        places.add("text")
    return places


async def test_the_id_is_announced_in_meta_in_structured_content_and_in_text(world: World) -> None:
    async with world.serve(conversing) as client:
        result = await client.call_tool("chat", {"prompt": "a"})
    if world.has(Limit.NOT_IN_STRUCTURED):
        assert _places(result) == {"meta", "text"}
    else:
        assert _places(result) == {"meta", "structured", "text"}
        assert result["structuredContent"]["continuation_id"] == announced_id(result)


@pytest.mark.parametrize("places", [["meta"], ["meta", "text"], ["meta", "structured"], ["text"], []], ids=str)
async def test_the_id_is_announced_only_where_settings_say(places: list[str], world: World) -> None:
    async with world.serve(conversing, {"tools": {"chat": {"announce": places}}}) as client:
        result = await client.call_tool("chat", {"prompt": "a"})
    expected = set(places)
    if world.has(Limit.NOT_IN_STRUCTURED):
        expected.discard("structured")
    assert _places(result) == expected


async def test_an_error_result_gains_only_meta(world: World) -> None:
    async with world.serve(strict) as client:
        result = await client.call_tool("fails", {"prompt": "a"})
    assert result["content"] == [{"type": "text", "text": "a"}]
    assert _places(result) == {"meta"}


@pytest.mark.parametrize("tool", ["report", "counts"])
async def test_a_strict_output_schema_holds_for_the_client_that_was_shown_it(tool: str, world: World) -> None:
    async with world.serve(strict) as client:
        await client.list_tools()
        result = await client.call_tool(tool, {"prompt": "a"})
    widened = world.way is not Way.DECORATOR
    assert ("structured" in _places(result)) is widened
    assert {"meta", "text"} <= _places(result)


async def test_an_open_output_schema_takes_the_id(world: World) -> None:
    async with world.serve(strict) as client:
        result = await client.call_tool("anything", {"prompt": "a"})
    expected = {"meta", "text"} if world.has(Limit.NOT_IN_STRUCTURED) else {"meta", "structured", "text"}
    assert _places(result) == expected


async def test_structured_content_without_a_schema_takes_the_id(world: World) -> None:
    async with world.serve(strict) as client:
        result = await client.call_tool("only_structured", {"prompt": "a"})
    expected = {"meta", "text"} if world.has(Limit.NOT_IN_STRUCTURED) else {"meta", "structured", "text"}
    assert _places(result) == expected


async def test_a_client_that_listed_nothing_before_its_call_is_served_the_same(world: World) -> None:
    async with world.serve(strict, alone=True) as client:
        result = await client.call_tool("report", {"prompt": "a"})
    assert result["structuredContent"]["title"] == "a"
    assert "meta" in _places(result)


async def test_the_record_has_the_answer_without_the_announcement(world: World) -> None:
    async with world.serve(conversing) as client:
        await client.call_tool("chat", {"prompt": "a"})
    [turn] = world.turns()
    assert turn.answer is not None
    assert turn.answer.result is not None
    assert "continuation" not in str(turn.answer.result)
