"""A changed settings file while the proxy runs: its list of tools follows, and the client is told."""

import os
from pathlib import Path

import pytest
from proxy.conftest import STATELESS, RawClient, behind
from proxy.test_transparent import HANDSHAKE

LIST_CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'


@pytest.fixture(autouse=True)
def _on(live_settings: None) -> None:
    switch("true")


def switch(on: str, more: str = "") -> None:
    Path(os.environ["PERDURE_CONFIG"]).write_text(f"[tools.echo]\nenabled = {on}\n{more}")


async def ids_in_list(client: RawClient) -> list[str]:
    """The tools that are listed with a continuation id."""
    tools = (await client.ask("tools/list"))["result"]["tools"]
    return [tool["name"] for tool in tools if "continuation_id" in tool["inputSchema"]["properties"]]


async def test_a_client_is_told_once_when_what_it_was_shown_changed_and_never_else() -> None:
    async with behind() as client:
        await client.ask("initialize", HANDSHAKE)
        assert await ids_in_list(client) == ["echo"]
        switch("true", "max_turns = 3")  # shows nowhere in a schema
        await client.ask("ping")
        assert LIST_CHANGED not in client.lines
        switch("false")
        for _ in range(3):
            await client.call("echo", {"prompt": "a"})
        assert client.lines.count(LIST_CHANGED) == 1
        assert await ids_in_list(client) == []
        switch("true")
        assert await ids_in_list(client) == ["echo"]
        assert client.lines.count(LIST_CHANGED) == 2


async def test_a_client_without_a_handshake_is_sent_nothing_that_it_did_not_subscribe_to() -> None:
    async with behind() as client:
        await client.ask("tools/list", {"_meta": STATELESS})
        switch("false")
        await client.ask("tools/list", {"_meta": STATELESS})
        assert LIST_CHANGED not in client.lines


@pytest.mark.parametrize("enabled", [True, False])
async def test_the_handshake_says_that_the_list_may_change_unless_perdure_is_switched_off(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAW_SAME_LIST", "yes")
    monkeypatch.setenv("PERDURE_ENABLED", str(enabled).lower())
    async with behind() as client:
        answer = await client.ask("initialize", HANDSHAKE)
    capabilities = answer["result"]["capabilities"]
    assert capabilities == {"tools": {"listChanged": True} if enabled else {}, "experimental": {"x": {}}}
