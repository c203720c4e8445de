"""Conversations as MCP resources, where the operator wants that: the caller's own, to list, read and resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceTemplateReference

from perdure import install
from perdure.middleware.call_reader import Caller
from perdure.middleware.conversation_resources import ConversationResources
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import activated, build
from perdure.settings import Settings
from perdure.testing.turns import a_turn, answered

both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])
TEMPLATE = ResourceTemplateReference(type="ref/resource", uri="conversation://{continuation_id}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    store = MemoryStore()
    settings = Settings(data_dir=tmp_path, conversation_resources=True, max_resource_bytes=20_000)
    with activated(build(settings, store=store)):
        yield store


@pytest.fixture
def server() -> MCPServer:
    made = MCPServer("resources")

    @made.resource("note://today")
    def note() -> str:
        return "the server's own"

    install(made)
    return made


def told(store: MemoryStore, *prompts: str, continuation_id: str = "c", principal: str = "local") -> None:
    for prompt in prompts:
        turn = a_turn(prompt, continuation_id=continuation_id, principal=principal)
        store.finish(answered(turn, f"answer to {prompt}"))


@both_eras
async def test_they_are_listed_behind_the_servers_own_and_can_be_read(
    store: MemoryStore, server: MCPServer, mode: str
) -> None:
    told(store, "hello", continuation_id="my project/2")
    async with Client(server, mode=mode) as client:
        own, ours = (await client.list_resources()).resources
        assert (str(own.uri), ours.name, str(ours.uri)) == (
            "note://today",
            "my project/2",
            "conversation://my%20project%2F2",
        )
        assert "1 turn, last used" in (ours.description or "")
        (content,) = (await client.read_resource(str(ours.uri))).contents
        assert content.mime_type == "text/markdown"
        assert "> hello" in content.text
        assert "> answer to hello" in content.text
        assert (await client.read_resource("note://today")).contents[0].text == "the server's own"


@both_eras
async def test_pages_join_without_gap_or_repeat(store: MemoryStore, server: MCPServer, mode: str) -> None:
    for number in range(120):
        told(store, "x", continuation_id=f"c{number:03}")
    seen: list[str] = []
    async with Client(server, mode=mode) as client:
        cursor = None
        while True:
            page = await client.list_resources(cursor=cursor)
            seen += [resource.name for resource in page.resources]
            cursor = page.next_cursor
            if cursor is None:
                break
        with pytest.raises(MCPError):
            await client.list_resources(cursor="perdure:nonsense")
    assert seen == ["note", *(f"c{number:03}" for number in reversed(range(120)))]


@both_eras
async def test_a_template_says_how_they_are_named_and_completes_the_name(
    store: MemoryStore, server: MCPServer, mode: str
) -> None:
    for name in ("trip", "trial", "other"):
        told(store, "x", continuation_id=name)
    async with Client(server, mode=mode) as client:
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "conversation://{continuation_id}"
        done = (await client.complete(TEMPLATE, {"name": "continuation_id", "value": "tri"})).completion
        assert (done.values, done.total, done.has_more) == (["trial", "trip"], 2, False)


@both_eras
async def test_nobody_sees_what_is_not_theirs(store: MemoryStore, server: MCPServer, mode: str) -> None:
    told(store, "private", continuation_id="theirs", principal="bob")
    async with Client(server, mode=mode) as client:
        assert [resource.name for resource in (await client.list_resources()).resources] == ["note"]
        done = (await client.complete(TEMPLATE, {"name": "continuation_id", "value": ""})).completion
        assert done.values == []
        messages = []
        for name in ("theirs", "unknown", "", "x" * 300, "%00", ".."):
            with pytest.raises(MCPError) as refused:
                await client.read_resource(f"conversation://{name}")
            messages.append(refused.value.message.replace(name, "…") if name else refused.value.message)
        assert messages[0] == messages[1]


async def test_where_anybody_may_call_there_is_nothing_to_see(store: MemoryStore) -> None:
    told(store, "x", continuation_id="c", principal="anonymous")
    ours = ConversationResources()
    anybody = Caller(remote=True)
    assert (await ours.listed(anybody, {"resources": []}, None))["resources"] == []
    asked = {"argument": {"name": "continuation_id", "value": ""}}
    assert (await ours.completed(anybody, asked))["completion"]["values"] == []
    with pytest.raises(Exception, match="There is no conversation"):
        await ours.read(anybody, {"uri": "conversation://c"})
    assert len((await ours.listed(Caller("anonymous", remote=True), {"resources": []}, None))["resources"]) == 1


@both_eras
async def test_a_long_conversation_is_shown_from_its_newest_turns(
    store: MemoryStore, server: MCPServer, mode: str
) -> None:
    told(store, *(f"{number} " + "x" * 1000 for number in range(30)))
    async with Client(server, mode=mode) as client:
        (content,) = (await client.read_resource("conversation://c")).contents
    assert len(content.text.encode()) < 21_000
    assert "## 30. chat" in content.text
    assert "## 1. chat" not in content.text
    assert "earlier turns are not shown" in content.text


@both_eras
async def test_a_server_without_resources_of_its_own_has_these(store: MemoryStore, mode: str) -> None:
    server: Server[Any] = Server("bare")
    install(server)
    told(store, "hello")
    async with Client(server, mode=mode) as client:
        assert [resource.name for resource in (await client.list_resources()).resources] == ["c"]
        assert client.server_capabilities.resources is not None
        assert client.server_capabilities.completions is not None


@both_eras
async def test_without_the_setting_a_server_is_as_it_was(
    store: MemoryStore, server: MCPServer, tmp_path: Path, mode: str
) -> None:
    told(store, "hello")
    with activated(build(Settings(data_dir=tmp_path), store=store)):
        async with Client(server, mode=mode) as client:
            assert [resource.name for resource in (await client.list_resources()).resources] == ["note"]
            assert (await client.list_resource_templates()).resource_templates == []
            with pytest.raises(MCPError):
                await client.read_resource("conversation://c")
