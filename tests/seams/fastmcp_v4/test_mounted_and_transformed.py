"""Tools that a client reaches through other servers, or under other names: recorded once, as the client called them."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Activate
from fastmcp import Client, FastMCP
from fastmcp.server import create_proxy
from fastmcp.server.transforms import ToolTransform
from fastmcp.tools import Tool
from fastmcp.tools.tool_transform import ArgTransform, ToolTransformConfig, forward
from mcp_wire import announced_id, kept, text_of, without_announcement
from seams.fastmcp_v4.fastmcp_shapes import Persist, bare
from seams.fastmcp_v4.fastmcp_wire import Json, called, listed

from perdure import current_conversation, install, persisted
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings

with_and_without_hook = pytest.mark.parametrize("hooked", [False, True], ids=["decorated", "decorated and hooked"])


def _child(persist: Persist = persisted) -> FastMCP:
    child = FastMCP("child", version="1")

    @child.tool
    @persist
    async def chat(prompt: str, size: int = 1) -> str:
        return prompt * size

    return child


# ── mounted servers ──────────────────────────────────────────────────────────────────────────────────────────────


def _mounted(persist: Persist, *, depth: int = 1) -> FastMCP:
    server = _child(persist)
    for number in range(depth):
        parent = FastMCP("parent", version="1")
        parent.mount(server, namespace=f"n{number}")
        server = parent
    return server


@with_and_without_hook
@pytest.mark.parametrize("depth", [1, 2])
async def test_a_tool_of_a_mounted_server_is_recorded_once_as_the_client_called_it(
    depth: int, hooked: bool, runtime: Runtime
) -> None:
    server = _mounted(persisted, depth=depth)
    if hooked:
        install(server)
    name = "_".join([f"n{number}" for number in reversed(range(depth))] + ["chat"])
    result = await called(server, name, {"prompt": "ab", "size": 2})
    assert without_announcement(result) == await called(_mounted(bare, depth=depth), name, {"prompt": "ab", "size": 2})
    assert json.dumps(result).count("[continuation_id: ") == 1
    [turn] = kept(runtime)
    assert (turn.tool, turn.prompt, turn.arguments) == (name, "ab", {"prompt": "ab", "size": 2})


async def test_its_policy_is_that_of_the_name_the_client_calls(activate: Activate) -> None:
    runtime = activate(tools={"n0_chat": ToolSettings(enabled=False)})
    assert await called(_mounted(persisted), "n0_chat", {"prompt": "a"}) == await called(
        _mounted(bare), "n0_chat", {"prompt": "a"}
    )
    assert kept(runtime) == []


async def test_options_in_its_code_hold_under_a_hook_around_the_parent(runtime: Runtime) -> None:
    server = _mounted(persisted(announce="meta"))
    install(server, tools=["n0_chat"])
    [entry] = await listed(server)
    assert "continuation_id" not in entry["outputSchema"]["properties"]
    result = await called(server, "n0_chat", {"prompt": "a"})
    assert announced_id(result)
    assert (len(result["content"]), result["structuredContent"]) == (1, {"result": "a"})
    assert len(kept(runtime)) == 1


async def test_a_tool_that_was_replaced_by_a_bare_one_is_no_longer_taken_for_decorated(runtime: Runtime) -> None:
    server = _child()
    install(server, tools=["chat"])
    await called(server, "chat", {"prompt": "a"})
    server.local_provider.remove_tool("chat")

    @server.tool
    async def chat(prompt: str) -> str:
        return prompt.upper()

    result = await called(server, "chat", {"prompt": "b", "continuation_id": "mine"})
    assert announced_id(result) == "mine"
    assert text_of(result).endswith("B")
    assert len(kept(runtime)) == 2


# ── proxies ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_hook_before_a_proxy_persists_what_is_behind_it(runtime: Runtime) -> None:
    proxy, expected = create_proxy(Client(_child(bare))), create_proxy(Client(_child(bare)))
    install(proxy, tools=["chat"])
    [entry] = await listed(proxy)
    assert "continuation_id" in entry["inputSchema"]["properties"]
    first = await called(proxy, "chat", {"prompt": "a", "size": 2, "continuation_id": "mine"})
    assert announced_id(first) == "mine"
    ours, bares = without_announcement(first), await called(expected, "chat", {"prompt": "a", "size": 2})
    assert (ours["content"], ours["structuredContent"]) == (bares["content"], bares["structuredContent"])
    second = await called(proxy, "chat", {"prompt": "b", "continuation_id": "mine"})
    assert second["_meta"]["perdure/history"]["turns"] == 1
    assert [turn.tool for turn in kept(runtime)] == ["chat", "chat"]


async def test_a_decorated_tool_behind_a_proxy_is_recorded_by_its_own_server(runtime: Runtime) -> None:
    parent = FastMCP("parent")
    parent.mount(create_proxy(Client(_child())), namespace="far")
    result = await called(parent, "far_chat", {"prompt": "a", "continuation_id": "mine"})
    assert announced_id(result) == "mine"
    assert [(turn.tool, turn.continuation_id) for turn in kept(runtime)] == [("chat", "mine")]


# ── transformed tools ────────────────────────────────────────────────────────────────────────────────────────────


def _renamed(persist: Persist) -> FastMCP:
    server = FastMCP("renaming", version="1")

    @server.tool
    @persist
    async def chat(prompt: str, key: str, size: int = 1) -> str:
        conversation = current_conversation()
        assert key == "secret"
        return f"{'earlier words' in prompt} {conversation is not None}"

    server.add_transform(
        ToolTransform(
            {
                "chat": ToolTransformConfig(
                    name="talk", arguments={"prompt": {"name": "words"}, "key": {"hide": True, "default": "secret"}}
                )
            }
        )
    )
    return server


@with_and_without_hook
async def test_a_renamed_tool_remembers_by_the_names_of_its_own_code_and_keeps_no_hidden_value(
    hooked: bool, runtime: Runtime
) -> None:
    server = _renamed(persisted)
    if hooked:
        install(server)
    [entry], [bare_entry] = await listed(server), await listed(_renamed(bare))
    assert set(entry["inputSchema"]["properties"]) - set(bare_entry["inputSchema"]["properties"]) == {"continuation_id"}

    first = await called(server, "talk", {"words": "earlier words"})
    assert text_of(first) == "True True"
    second = await called(server, "talk", {"words": "now", "continuation_id": announced_id(first)})
    assert text_of(second) == "True True"  # the history stands in the argument that the code calls prompt
    turns = kept(runtime)
    assert [(turn.tool, turn.prompt) for turn in turns] == [("talk", "earlier words"), ("talk", "now")]
    assert "secret" not in json.dumps([turn.arguments for turn in turns])


async def test_hidden_values_are_not_kept_behind_several_transformations(runtime: Runtime) -> None:
    server = FastMCP("twice")

    async def chat(prompt: str, key: str, other: str) -> str:
        return prompt

    inner = Tool.from_tool(
        Tool.from_function(persisted(chat)),
        transform_args={"key": ArgTransform(name="token"), "other": ArgTransform(hide=True, default="inner secret")},
    )
    outer = Tool.from_tool(
        inner,
        name="talk",
        transform_args={
            "token": ArgTransform(hide=True, default="outer secret"),
            "prompt": ArgTransform(name="words"),
        },
    )
    server.add_tool(outer)
    assert text_of(await called(server, "talk", {"words": "a"})) == "a"
    [turn] = kept(runtime)
    assert turn.tool == "talk"
    assert turn.arguments["prompt"] == "a"
    assert not {"key", "token", "other"} & set(turn.arguments)


async def test_files_come_back_under_the_names_of_the_code(runtime: Runtime, tmp_path: Path) -> None:
    server = FastMCP("files")
    path = tmp_path / "note.txt"
    path.write_text("kept")

    @server.tool
    @persisted
    async def write() -> str:
        return str(path)

    async def read(path: Path, key: str) -> str:
        return path.read_text() + key

    transforms = {"path": ArgTransform(name="file"), "key": ArgTransform(hide=True, default="!")}
    server.add_tool(Tool.from_tool(Tool.from_function(persisted(read)), name="look", transform_args=transforms))
    uri = text_of(await called(server, "write"))
    path.unlink()
    assert text_of(await called(server, "look", {"file": uri})) == "kept!"


async def test_the_schema_that_the_client_is_shown_decides_on_structured_content(runtime: Runtime) -> None:
    server = FastMCP("narrow")

    async def chat(prompt: str) -> dict[str, Any]:
        return {"answer": prompt}

    narrow = {"type": "object", "properties": {"answer": {"type": "string"}}, "additionalProperties": False}
    server.add_tool(Tool.from_tool(Tool.from_function(persisted(chat)), name="talk", output_schema=narrow))
    result = await called(server, "talk", {"prompt": "a"})
    assert result["structuredContent"] == {"answer": "a"}
    assert announced_id(result)


async def test_code_that_transforms_a_tool_can_be_decorated_itself(runtime: Runtime) -> None:
    def make(persist: Persist) -> FastMCP:
        server = FastMCP("wrapping", version="1")

        async def chat(prompt: str) -> str:
            return prompt.upper()

        async def talk(prompt: str) -> str:
            result = await forward(prompt=prompt)
            return result.content[0].text + "!"  # type: ignore[union-attr]

        server.add_tool(Tool.from_tool(Tool.from_function(chat), name="talk", transform_fn=persist(talk)))
        return server

    result = await called(make(persisted), "talk", {"prompt": "a"})
    assert without_announcement(result) == await called(make(bare), "talk", {"prompt": "a"})
    assert [(turn.tool, turn.prompt) for turn in kept(runtime)] == [("talk", "a")]


# ── versions, tags, visibility ───────────────────────────────────────────────────────────────────────────────────


def _other() -> str:
    return "here"


def _versions(persist: Persist) -> FastMCP:
    server = FastMCP("versions", version="1")

    async def old(prompt: str) -> str:
        return f"old {prompt}"

    async def new(prompt: str) -> str:
        return f"new {prompt}"

    server.tool(persist(old), name="chat", version="1.0", tags={"quiet"})
    server.tool(persist(new), name="chat", version="2.0", tags={"loud"})
    return server


@with_and_without_hook
@pytest.mark.parametrize(("meta", "words"), [(None, "new a"), ({"fastmcp": {"version": "1.0"}}, "old a")])
async def test_each_version_of_a_tool_answers_and_is_kept(
    meta: Json | None, words: str, hooked: bool, runtime: Runtime
) -> None:
    server = _versions(persisted)
    if hooked:
        install(server)
    assert text_of(await called(server, "chat", {"prompt": "a"}, meta=meta)) == words
    [turn] = kept(runtime)
    assert turn.prompt == "a"


@with_and_without_hook
async def test_a_tool_that_is_disabled_is_unknown_as_before_and_nobodys_turn(hooked: bool, runtime: Runtime) -> None:
    def make(persist: Persist) -> FastMCP:
        server = _versions(persist)
        server.disable(tags={"loud", "quiet"})
        server.tool(bare(_other), name="other")
        return server

    server = make(persisted)
    if hooked:
        install(server, tools=["chat"])
    assert [entry["name"] for entry in await listed(server)] == ["other"]
    assert await called(server, "chat", {"prompt": "a"}) == await called(make(bare), "chat", {"prompt": "a"})
    assert kept(runtime) == []
