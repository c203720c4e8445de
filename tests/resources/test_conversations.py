"""Conversations as MCP resources, where the operator wants that: the caller's own, to list, read and resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from resources.clients import Refused, connected, every_way, low_level_server, server_of_functions

from perdure import install
from perdure.middleware.call_reader import Caller
from perdure.middleware.conversation_resources import ConversationResources
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import activated, build
from perdure.settings import Settings
from perdure.testing.turns import a_turn, answered


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    store = MemoryStore()
    settings = Settings(data_dir=tmp_path, conversation_resources=True, max_resource_bytes=20_000)
    with activated(build(settings, store=store)):
        yield store


@pytest.fixture
def server() -> Any:
    made = server_of_functions("resources")

    @made.resource("note://today")
    def note() -> str:
        return "the server's own"

    install(made)
    return made


def told(store: MemoryStore, *prompts: str, continuation_id: str = "c", principal: str = "local") -> None:
    for prompt in prompts:
        turn = a_turn(prompt, continuation_id=continuation_id, principal=principal)
        store.finish(answered(turn, f"answer to {prompt}"))


@every_way
async def test_they_are_listed_behind_the_servers_own_and_can_be_read(
    store: MemoryStore, server: Any, mode: str
) -> None:
    told(store, "hello", continuation_id="my project/2")
    async with connected(server, mode) as client:
        own, ours = (await client.resources())["resources"]
        assert (own["uri"], ours["name"], ours["uri"]) == (
            "note://today",
            "my project/2",
            "conversation://my%20project%2F2",
        )
        assert "1 turn, last used" in ours["description"]
        content = await client.read(ours["uri"])
        assert content["mimeType"] == "text/markdown"
        assert "> hello" in content["text"]
        assert "> answer to hello" in content["text"]
        assert (await client.read("note://today"))["text"] == "the server's own"


@every_way
async def test_pages_join_without_gap_or_repeat(store: MemoryStore, server: Any, mode: str) -> None:
    for number in range(120):
        told(store, "x", continuation_id=f"c{number:03}")
    seen: list[str] = []
    async with connected(server, mode) as client:
        cursor = None
        while True:
            page = await client.resources(cursor)
            seen += [resource["name"] for resource in page["resources"]]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        with pytest.raises(Refused):
            await client.resources("perdure:nonsense")
    assert seen == ["note", *(f"c{number:03}" for number in reversed(range(120)))]


@every_way
async def test_a_template_says_how_they_are_named_and_completes_the_name(
    store: MemoryStore, server: Any, mode: str
) -> None:
    for name in ("trip", "trial", "other"):
        told(store, "x", continuation_id=name)
    async with connected(server, mode) as client:
        (template,) = await client.templates()
        assert template["uriTemplate"] == "conversation://{continuation_id}"
        assert await client.completion("tri") == {"values": ["trial", "trip"], "total": 2, "hasMore": False}


@every_way
async def test_nobody_sees_what_is_not_theirs(store: MemoryStore, server: Any, mode: str) -> None:
    told(store, "private", continuation_id="theirs", principal="bob")
    async with connected(server, mode) as client:
        assert await client.names() == ["note"]
        assert (await client.completion(""))["values"] == []
        messages = []
        for name in ("theirs", "unknown", "", "x" * 300, "%00", ".."):
            with pytest.raises(Refused) as refused:
                await client.read(f"conversation://{name}")
            messages.append(str(refused.value).replace(name, "…") if name else str(refused.value))
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


@every_way
async def test_a_long_conversation_is_shown_from_its_newest_turns(store: MemoryStore, server: Any, mode: str) -> None:
    told(store, *(f"{number} " + "x" * 1000 for number in range(30)))
    async with connected(server, mode) as client:
        text = (await client.read("conversation://c"))["text"]
    assert len(text.encode()) < 21_000
    assert "## 30. chat" in text
    assert "## 1. chat" not in text
    assert "earlier turns are not shown" in text


@every_way
async def test_a_server_without_resources_of_its_own_has_these(store: MemoryStore, mode: str) -> None:
    server = low_level_server("bare")
    install(server)
    told(store, "hello")
    async with connected(server, mode) as client:
        assert await client.names() == ["c"]
        assert {"resources", "completions"} <= client.capabilities.keys()


@every_way
async def test_without_the_setting_a_server_is_as_it_was(
    store: MemoryStore, server: Any, tmp_path: Path, mode: str
) -> None:
    told(store, "hello")
    with activated(build(Settings(data_dir=tmp_path), store=store)):
        async with connected(server, mode) as client:
            assert await client.names() == ["note"]
            assert await client.templates() == []
            with pytest.raises(Refused):
                await client.read("conversation://c")
