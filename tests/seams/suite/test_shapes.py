"""Whatever the shape of a tool: it answers and is listed as without perdure, but for the id, and its call is kept."""

import pytest
from seams.suite.shapes_of_tools import SHAPES, Shape
from seams.worlds.world import Json, Limit, World
from wire_form import without_announcement

from perdure import Outcome
from perdure.middleware.tool_schema import continuation_id_schema

pytestmark = pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__`")  # of a model in `Annotated`

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every_shape
async def test_a_tool_answers_what_it_answers_without_perdure_and_that_is_kept(shape: Shape, world: World) -> None:
    async with world.bare.serve(shape.toolbox) as client:
        [entry] = await client.list_tools()
        expected = await client.call_tool(entry["name"], shape.arguments)
    async with world.serve(shape.toolbox) as client:
        result = await client.call_tool(entry["name"], shape.arguments)
    assert without_announcement(result) == expected
    [turn] = world.turns()
    assert turn.id == result["_meta"]["perdure/turn-id"]
    assert (turn.tool, turn.arguments) == (entry["name"], shape.arguments)
    assert turn.outcome is (Outcome.FAILED if expected.get("isError") else Outcome.ANSWERED)
    assert turn.answer is not None
    assert turn.answer.result is not None
    for part in ("content", "structuredContent"):
        assert turn.answer.result.get(part) == expected.get(part)


@every_shape
async def test_a_tool_is_listed_as_it_is_but_for_the_id(shape: Shape, world: World) -> None:
    async with world.bare.serve(shape.toolbox) as client:
        [expected] = await client.list_tools()
    async with world.serve(shape.toolbox) as client:
        [entry] = await client.list_tools()
    if not world.has(Limit.NOT_IN_LIST):
        assert entry["inputSchema"]["properties"].pop("continuation_id") == continuation_id_schema()
        _take_out_of_output_schema(entry, expected)
    assert entry == expected


def _take_out_of_output_schema(entry: Json, expected: Json) -> None:
    """The id, where a hook has put it."""
    if "outputSchema" not in entry or "continuation_id" in expected["outputSchema"].get("properties", {}):
        return
    properties = entry["outputSchema"].get("properties", {})
    properties.pop("continuation_id", None)
    if not properties and "properties" not in expected["outputSchema"]:
        entry["outputSchema"].pop("properties", None)
