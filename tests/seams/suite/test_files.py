"""Files that tools give out are kept, and come back when their URI is sent in."""

from pathlib import Path

import pytest
from seams.suite.acting_tools import filing
from seams.worlds.world import CallRefused, Limit, World
from wire_form import text_of


@pytest.mark.parametrize("tool", ["write", "write_plainly"])
async def test_a_path_in_a_result_becomes_the_uri_of_the_file_that_is_kept(
    tool: str, world: World, tmp_path: Path
) -> None:
    async with world.serve(filing) as client:
        result = await client.call_tool(tool, {"text": "hello", "folder": str(tmp_path)})
    assert text_of(result).startswith("storage://")
    [file] = result["_meta"]["perdure/files"]["stored"]
    assert (file["uri"], file["size"]) == (text_of(result), 5)
    [turn] = world.turns()
    assert turn.answer is not None
    assert turn.answer.text == text_of(result)


async def test_a_path_in_structured_content_becomes_a_uri(world: World, tmp_path: Path) -> None:
    async with world.serve(filing) as client:
        result = await client.call_tool("write_structured", {"text": "hello", "folder": str(tmp_path)})
    assert result["structuredContent"]["file"].startswith("storage://")


async def test_a_file_in_a_resource_link_becomes_a_uri(world: World, tmp_path: Path) -> None:
    async with world.serve(filing) as client:
        result = await client.call_tool("write_as_link", {"text": "hello", "folder": str(tmp_path)})
    assert result["content"][0]["uri"].startswith("storage://")


@pytest.mark.parametrize("tool", ["read", "read_plainly"])
async def test_a_uri_in_an_argument_is_a_local_file_to_the_tool(tool: str, world: World, tmp_path: Path) -> None:
    async with world.serve(filing) as client:
        uri = text_of(await client.call_tool("write", {"text": "hello", "folder": str(tmp_path)}))
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    async with world.serve(filing) as client:
        result = await client.call_tool(tool, {"path": uri})
    assert text_of(result) == "hello"
    assert world.turns()[-1].arguments == {"path": uri}


@pytest.mark.parametrize("tool", ["read", "read_plainly"])
async def test_a_uri_of_a_file_that_is_not_the_callers_is_refused_before_the_tool_runs(tool: str, world: World) -> None:
    async with world.serve(filing) as client:
        result = await client.call_tool(tool, {"path": f"storage://mcp-files/x/{'0' * 64}/a.txt"})
    assert result["isError"]
    assert "storage://" in text_of(result)


async def test_files_switched_off_leave_the_path(world: World, tmp_path: Path) -> None:
    async with world.serve(filing, {"defaults": {"files": False}}) as client:
        result = await client.call_tool("write", {"text": "hello", "folder": str(tmp_path)})
    assert Path(text_of(result)).read_text() == "hello"


async def test_a_client_reads_a_kept_file_as_a_resource(world: World, tmp_path: Path) -> None:
    async with world.serve(filing) as client:
        uri = text_of(await client.call_tool("write", {"text": "hello", "folder": str(tmp_path)}))
        if world.has(Limit.NO_RESOURCES):
            with pytest.raises(CallRefused):
                await client.read_resource(uri)
            return
        [content] = (await client.read_resource(uri))["contents"]
    assert (content["uri"], content["text"]) == (uri, "hello")


async def test_a_resource_that_is_not_there_is_refused(world: World) -> None:
    async with world.serve(filing) as client:
        with pytest.raises(CallRefused):
            await client.read_resource(f"storage://mcp-files/x/{'0' * 64}/a.txt")
