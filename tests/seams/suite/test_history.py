"""Where a tool is given its history, and where not."""

import pytest
from seams.suite.conversing_tools import conversing, remembering
from seams.worlds.world import Json, Limit, World
from wire_form import text_of

CONTINUED = {"continuation_id": "c"}


@pytest.mark.parametrize("tool", ["chat", "chat_plainly"])
async def test_a_prompt_is_given_with_the_transcript_before_it_and_kept_without(tool: str, world: World) -> None:
    async with world.serve(conversing) as client:
        for prompt in ("first words", "second words"):
            result = await client.call_tool(tool, {"prompt": prompt, **CONTINUED})
    text = text_of(result)
    assert text.index("first words") < text.index("second words")
    assert result["_meta"]["perdure/history"] == {"state": "loaded", "turns": 1, "omitted": 0}
    assert [turn.prompt for turn in world.turns()] == ["first words", "second words"]
    assert [turn.arguments["prompt"] for turn in world.turns()] == ["first words", "second words"]


async def test_an_argument_of_another_name_takes_the_transcript_where_settings_name_it(world: World) -> None:
    async with world.serve(conversing, {"tools": {"ask": {"prompt_argument": "query"}}}) as client:
        for query in ("first words", "second words"):
            result = await client.call_tool("ask", {"query": query, **CONTINUED})
    assert "first words" in text_of(result)


async def test_a_tool_without_a_prompt_argument_is_given_no_transcript(world: World) -> None:
    async with world.serve(conversing) as client:
        for query in ("first words", "second words"):
            result = await client.call_tool("ask", {"query": query, **CONTINUED})
    assert text_of(result) == "<second words>"


async def test_history_none_gives_the_prompt_alone(world: World) -> None:
    async with world.serve(conversing, {"tools": {"chat": {"history": "none"}}}) as client:
        for prompt in ("first words", "second words"):
            result = await client.call_tool("chat", {"prompt": prompt, **CONTINUED})
    assert text_of(result) == "<second words>"
    assert len(world.turns()) == 2


@pytest.mark.parametrize("mode", ["auto", "prompt", "none"])
async def test_the_current_conversation_is_there_in_every_mode(mode: str, world: World) -> None:
    async with world.serve(conversing, {"tools": {"answers": {"history": mode}}}) as client:
        await client.call_tool("answers", {"prompt": "first", **CONTINUED})
        result = await client.call_tool("answers", {"prompt": "second", **CONTINUED})
    expected = "none" if world.has(Limit.NO_CURRENT_CONVERSATION) else "c / loaded / first"
    assert text_of(result) == expected


@pytest.mark.parametrize("tool", ["recall", "recall_plainly"])
async def test_a_parameter_for_the_history_is_filled_and_not_listed(tool: str, world: World) -> None:
    if world.has(Limit.NO_HISTORY_PARAMETER):
        with world.running(), pytest.raises(Exception, match="History"):
            world.bare.server(remembering)  # the SDK knows no such type of argument
        return
    async with world.serve(remembering) as client:
        entries = {entry["name"]: entry["inputSchema"]["properties"] for entry in await client.list_tools()}
        assert set(entries[tool]) == {"prompt", "continuation_id"}
        texts = [text_of(await client.call_tool(tool, {"prompt": prompt, **CONTINUED})) for prompt in "abc"]
    assert texts == ["new: ", "loaded: a", "loaded: a, b"]


async def test_only_so_many_turns_are_given_and_the_rest_is_counted(world: World) -> None:
    async with world.serve(conversing, {"tools": {"chat": {"max_turns": 2}}}) as client:
        for prompt in ("one.", "two.", "three.", "four."):
            result = await client.call_tool("chat", {"prompt": prompt, **CONTINUED})
    assert result["_meta"]["perdure/history"] == {"state": "loaded", "turns": 2, "omitted": 1}
    assert ("one." in text_of(result), "two." in text_of(result)) == (False, True)


async def test_a_prompt_whose_schema_would_refuse_the_transcript_is_left_alone(world: World) -> None:
    async with world.serve(conversing) as client:
        for prompt in ("first words", "second words"):
            result = await client.call_tool("short", {"prompt": prompt, **CONTINUED})
    assert not result.get("isError")
    assert text_of(result) == "<second words>"
    assert "'prompt'" in result["_meta"]["perdure/history"]["skipped"]


async def test_what_failed_is_not_part_of_the_history(world: World) -> None:
    refused: Json = {"prompt": ["no text"], **CONTINUED}
    async with world.serve(conversing) as client:
        assert (await client.call_tool("chat", refused))["isError"]
        result = await client.call_tool("chat", {"prompt": "second words", **CONTINUED})
    assert text_of(result) == "<second words>"
