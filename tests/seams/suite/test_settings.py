"""What an operator switches."""

import asyncio
import os
from pathlib import Path

import pytest
from seams.suite.conversing_tools import conversing
from seams.worlds.world import Json, Limit, ToolClient, World
from wire_form import text_of, without_announcement

from perdure import settings_watch


async def _seen(
    world: World, settings: Json | None = None, *, alone: bool = False, **arguments: str
) -> tuple[list[Json], Json]:
    async with world.serve(conversing, settings, alone=alone) as client:
        result = await client.call_tool("chat", {"prompt": "a", **arguments})
        return await client.list_tools(), result


async def test_a_tool_that_is_switched_off_answers_as_without_perdure(world: World) -> None:
    _, expected = await _seen(world.bare)
    _, result = await _seen(world, {"tools": {"chat": {"enabled": False}}})
    assert result == expected
    assert world.turns() == []


async def test_an_id_sent_to_a_tool_that_is_switched_off_does_no_harm(world: World) -> None:
    _, expected = await _seen(world.bare)
    _, result = await _seen(world, {"tools": {"chat": {"enabled": False}}}, continuation_id="c")
    assert result == expected


async def test_other_tools_go_on_when_one_is_switched_off(world: World) -> None:
    async with world.serve(conversing, {"tools": {"chat": {"enabled": False}}}) as client:
        await client.call_tool("chat", {"prompt": "a"})
        await client.call_tool("chat_plainly", {"prompt": "a"})
    assert [turn.tool for turn in world.turns()] == ["chat_plainly"]


async def test_a_tool_switched_off_while_its_server_runs_is_listed_as_without_perdure_and_switched_on_as_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_watch, "_EVERY", 0.0)  # a server in another process looks once a second
    async with world.bare.serve(conversing) as client:
        bare = {entry["name"]: entry for entry in await client.list_tools()}
    async with world.serve(conversing, alone=True) as client:
        before = {entry["name"]: entry for entry in await client.list_tools()}
        assert (before["chat"] == bare["chat"]) is world.has(Limit.NOT_IN_LIST)
        world.write_settings({"tools": {"chat": {"enabled": False}}})
        await _until_chat_is(client, kept=False)
        assert {entry["name"]: entry for entry in await client.list_tools()} == {**before, "chat": bare["chat"]}
        world.write_settings()
        await _until_chat_is(client, kept=True)
        assert {entry["name"]: entry for entry in await client.list_tools()} == before


async def _until_chat_is(client: ToolClient, *, kept: bool) -> None:
    for _ in range(200):
        result = await client.call_tool("chat", {"prompt": "a"})
        if ("perdure/turn-id" in result.get("_meta", {})) is kept:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the settings were not followed")


async def test_perdure_switched_off_changes_nothing_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = await _seen(world.bare)
    monkeypatch.setenv("PERDURE_ENABLED", "false")
    assert await _seen(world, alone=True) == expected
    monkeypatch.delenv("PERDURE_ENABLED")
    assert world.turns() == []


async def test_what_settings_redact_is_not_in_the_record_and_reaches_the_tool(world: World) -> None:
    settings = {"tools": {"chat": {"redact_patterns": ["hush-[0-9]+"]}}}
    async with world.serve(conversing, settings) as client:
        result = await client.call_tool("chat", {"prompt": "hush-123"})
    assert text_of(result) == "<hush-123>"
    [turn] = world.turns()
    assert "hush-123" not in str((turn.prompt, turn.arguments, turn.answer))


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _data_directory_is_a_file() -> None:
    Path(os.environ["PERDURE_DATA_DIR"]).write_text("a file stands here")


@pytest.mark.parametrize("tool", ["chat", "chat_plainly"])
async def test_a_store_that_fails_leaves_the_result_as_it_was_and_is_named_in_meta(tool: str, world: World) -> None:
    async with world.bare.serve(conversing) as client:
        expected = await client.call_tool(tool, {"prompt": "a"})
    _data_directory_is_a_file()
    async with world.serve(conversing, alone=True) as client:
        result = await client.call_tool(tool, {"prompt": "a", "continuation_id": "c"})
    assert without_announcement(result) == expected
    assert result["_meta"]["perdure/persisted"] is False
    assert result["_meta"]["perdure/history"]["state"] == "unavailable"
    assert "perdure/fault" in result["_meta"]


async def test_settings_that_cannot_be_used_leave_the_result_as_it_was_and_record_nothing(world: World) -> None:
    _, expected = await _seen(world.bare)
    async with world.serve(conversing, {"tools": {"chat": {"histroy": "auto"}}}) as client:
        result = await client.call_tool("chat", {"prompt": "a"})
    assert text_of(result) == text_of(expected)
    if "_meta" in result and "perdure/persisted" in result["_meta"]:
        assert without_announcement(result) == expected
        assert result["_meta"]["perdure/persisted"] is False
    world.write_settings()
    assert world.turns() == []


async def test_the_list_of_tools_is_there_when_the_store_is_not(world: World) -> None:
    _data_directory_is_a_file()
    entries, _ = await _seen(world, alone=True)
    listed = {entry["name"]: "continuation_id" in entry["inputSchema"]["properties"] for entry in entries}
    assert listed["chat"] is not world.has(Limit.NOT_IN_LIST)
