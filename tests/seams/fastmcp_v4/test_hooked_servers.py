"""`install(server)` on a `FastMCP` of the package fastmcp, whose tools' code is not touched."""

import json
from typing import Any

import pytest
from conftest import Activate
from fastmcp import Client, Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.middleware import Middleware
from mcp import Client as SdkClient
from mcp.server.mcpserver import MCPServer
from mcp_wire import announced_id, kept, text_of, without_announcement
from seams.fastmcp_v4.fastmcp_shapes import SHAPES, Shape, bare
from seams.fastmcp_v4.fastmcp_wire import Json, authenticated, called, listed, wire

from perdure import Outcome, current_conversation, install, persisted
from perdure.middleware.persistence.wiring import Runtime

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)


@every_shape
async def test_a_hooked_tool_answers_what_it_answers_without_the_hook_and_is_kept(
    shape: Shape, runtime: Runtime
) -> None:
    [entry] = await listed(shape.server(bare))
    expected = await called(shape.server(bare), entry["name"], shape.arguments)
    server = shape.server(bare)
    install(server, tools=[entry["name"]])
    result = await called(server, entry["name"], {**shape.arguments, "continuation_id": "mine"})
    assert announced_id(result) == "mine"
    assert json.dumps(without_announcement(result), sort_keys=True) == json.dumps(expected, sort_keys=True)
    [turn] = kept(runtime)
    assert (turn.tool, turn.arguments) == (entry["name"], shape.arguments)


@every_shape
async def test_a_decorated_tool_under_a_hook_is_recorded_and_announced_once(shape: Shape, runtime: Runtime) -> None:
    server = shape.server(persisted)
    install(server)
    [entry] = await listed(server)
    result = await called(server, entry["name"], shape.arguments)
    assert json.dumps(result).count("[continuation_id: ") == 1
    assert len(kept(runtime)) == 1


async def _chat(text: str) -> str:
    conversation = current_conversation()
    return f"{text} {conversation is not None}"


async def test_a_tool_that_is_registered_later_is_covered(runtime: Runtime) -> None:
    server = FastMCP("later")
    install(server, tools=["chat"])
    async with Client(server) as client:
        assert await client.list_tools() == []
        server.tool(_chat, name="chat")
        [entry] = map(wire, await client.list_tools())
        result = wire(await client.call_tool_mcp("chat", {"text": "a", "continuation_id": "mine"}))
    assert "continuation_id" in entry["inputSchema"]["properties"]
    assert (text_of(result), announced_id(result)) == ("a True", "mine")


async def test_a_second_install_does_nothing_but_name_more_tools(runtime: Runtime) -> None:
    server = FastMCP("twice")
    server.tool(_chat, name="chat")
    server.tool(_chat, name="other")
    install(server, tools=["chat"])
    before = list(server._mcp_server.middleware)
    install(server, tools=["other"])
    assert server._mcp_server.middleware == before
    for name in ("chat", "other"):
        await called(server, name, {"text": "a"})
    assert [turn.tool for turn in kept(runtime)] == ["chat", "other"]


async def test_the_low_level_server_within_is_as_good(runtime: Runtime) -> None:
    server = FastMCP("within")
    server.tool(persisted(_chat), name="chat")
    install(server._mcp_server)
    install(server)
    result = await called(server, "chat", {"text": "a"})
    assert json.dumps(result).count("[continuation_id: ") == 1
    assert len(kept(runtime)) == 1


async def test_an_id_for_a_tool_that_is_not_persisted_is_refused_as_before(runtime: Runtime) -> None:
    server, expected = FastMCP("off", version="1"), FastMCP("off", version="1")
    for one in (server, expected):
        one.tool(_chat, name="chat")
    install(server, tools=["other"])
    arguments = {"text": "a", "more": "x"}
    assert await called(server, "chat", arguments) == await called(expected, "chat", arguments)


async def test_errors_are_masked_as_the_server_was_told(runtime: Runtime) -> None:
    def make() -> FastMCP:
        server = FastMCP("masking", mask_error_details=True, version="1")

        @server.tool
        async def chat(text: str) -> str:
            raise ToolError("told") if text == "tell" else RuntimeError("secret")

        return server

    server = make()
    install(server, tools=["chat"])
    for text in ("tell", "hide"):
        result, expected = await called(server, "chat", {"text": text}), await called(make(), "chat", {"text": text})
        assert without_announcement(result) == expected
    assert {turn.outcome for turn in kept(runtime)} == {Outcome.FAILED}
    assert "secret" not in str(kept(runtime))


async def test_a_tool_that_does_not_exist_is_unknown_as_before(runtime: Runtime) -> None:
    server = FastMCP("none", version="1")
    server.tool(_chat, name="chat")
    install(server, tools=["nothing"])
    expected = FastMCP("none", version="1")
    assert await called(server, "nothing") == await called(expected, "nothing")
    assert kept(runtime) == []


async def test_pages_of_the_list_are_widened_each(runtime: Runtime) -> None:
    server = FastMCP("pages", list_page_size=1)
    for name in ("a", "b"):
        server.tool(_chat, name=name)
    install(server, tools=["b"])
    entries = {entry["name"]: entry for entry in await listed(server)}
    assert [name for name in entries if "continuation_id" in entries[name]["inputSchema"]["properties"]] == ["b"]
    async with Client(server) as client:  # which has not listed anything
        assert announced_id(wire(await client.call_tool_mcp("b", {"text": "a", "continuation_id": "mine"}))) == "mine"


async def test_middleware_of_fastmcp_sees_a_call_once_and_without_the_id(runtime: Runtime) -> None:
    seen: list[Json] = []

    class Looking(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            seen.append(dict(context.message.arguments))
            return await call_next(context)

    server = FastMCP("seen", middleware=[Looking()])
    server.tool(_chat, name="chat")
    install(server, tools=["chat"])
    await called(server, "chat", {"text": "a", "continuation_id": "mine"})
    assert seen == [{"text": "a"}]


async def test_stored_files_are_resources_of_their_owner_only(runtime: Runtime, tmp_path: Any) -> None:
    server = FastMCP("files")

    @server.tool
    async def write(text: str) -> str:
        path = tmp_path / "note.txt"
        path.write_text(text)
        return str(path)

    @server.resource("note://own")
    def note() -> str:
        return "the server's own"

    install(server, tools=["write"])
    with authenticated(client_id="app", subject="ann"):
        uri = text_of(await called(server, "write", {"text": "kept"}))
        async with Client(server) as client:
            assert (await client.read_resource(uri))[0].text == "kept"  # type: ignore[union-attr]
            assert (await client.read_resource("note://own"))[0].text == "the server's own"  # type: ignore[union-attr]
    with authenticated(client_id="app", subject="bob"):
        async with Client(server) as client:
            with pytest.raises(Exception, match="storage://"):
                await client.read_resource(uri)


# ── beside servers of the SDK ────────────────────────────────────────────────────────────────────────────────────


async def test_both_kinds_of_server_persist_the_same_function_in_one_process(runtime: Runtime) -> None:
    @persisted
    async def chat(text: str) -> str:
        return text.upper()

    ours, theirs = FastMCP("one"), MCPServer("other")
    ours.tool(chat)
    theirs.tool()(chat)
    again = FastMCP("again")
    again.tool(chat)
    result = await called(ours, "chat", {"text": "a"})
    async with SdkClient(theirs) as client:
        entry = wire((await client.list_tools()).tools[0])
        other = wire(await client.call_tool("chat", {"text": "b", "continuation_id": announced_id(result)}))
    third = await called(again, "chat", {"text": "c", "continuation_id": announced_id(result)})
    assert list(entry["inputSchema"]["properties"]) == ["text", "continuation_id"]
    assert [text_of(each) for each in (result, other, third)] == ["A", "B", "C"]
    assert [turn.prompt for turn in kept(runtime)] == ["a", "b", "c"]


async def test_a_hook_on_each_kind_of_server_serves_its_own(runtime: Runtime) -> None:
    ours, theirs = FastMCP("one"), MCPServer("other")

    @ours.tool
    async def chat(text: str, ctx: Context) -> str:
        return f"{ctx.fastmcp.name} {text}"

    @theirs.tool()
    async def talk(text: str) -> str:
        return text_of(await called(ours, "chat", {"text": text}))

    install(ours, tools=["chat"])
    install(theirs, tools=["talk"])
    async with SdkClient(theirs) as client:
        result = wire(await client.call_tool("talk", {"text": "a", "continuation_id": "mine"}))
    assert text_of(result) == "one a"
    assert sorted((turn.tool, turn.continuation_id == "mine") for turn in kept(runtime)) == [
        ("chat", False),
        ("talk", True),
    ]


async def test_an_operators_file_names_tools_of_a_mounted_server(activate: Activate) -> None:
    runtime = activate(tools={"sub_*": {"enabled": True, "announce": ["meta"]}})
    parent, child = FastMCP("parent"), FastMCP("child")
    child.tool(_chat, name="chat")
    parent.mount(child, namespace="sub")
    install(parent)
    result = await called(parent, "sub_chat", {"text": "a"})
    assert announced_id(result)
    assert len(result["content"]) == 1
    assert [turn.tool for turn in kept(runtime)] == ["sub_chat"]
