"""The npm SDK's own example server behind the proxy, and its client before it."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CreateMessageRequestParams, CreateMessageResult, TextContent
from mcp_wire import kept, wire
from proxy.conftest import PATIENCE, RawClient, behind, turns_in_store
from proxy.test_transparent import HANDSHAKE, bare

from perdure import Outcome
from perdure.middleware.persistence.wiring import Runtime

INSTALLED = Path(sys.prefix) / "typescript" / "node_modules"
"""Where the Makefile installs what package.json and package-lock.json in `typescript/` pin."""

PERDURE = str(Path(sys.executable).with_name("perdure"))


@pytest.fixture(scope="module")
def everything() -> list[str]:
    """The command of the server with everything in it."""
    script = INSTALLED / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
    assert script.is_file(), f"not installed: make {Path(sys.prefix).name}/typescript.stamp"
    return ["node", str(script), "stdio"]


@asynccontextmanager
async def session(command: list[str], heard: list[str]) -> AsyncIterator[tuple[Client, psutil.Process]]:
    """A client whose model says `Hello.` to whatever the server asks it, and the server's process."""

    async def model(_: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
        [message] = params.messages
        assert isinstance(message.content, TextContent)
        heard.append(message.content.text)
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="Hello."), model="test")

    environment = {**os.environ, "PERDURE_TOOLS": '{"trigger-sampling-request": {"enabled": true}}'}
    before = set(psutil.Process().children(recursive=True))
    parameters = StdioServerParameters(command=PERDURE, args=["proxy", "--", *command], env=environment)
    async with Client(stdio_client(parameters), mode="legacy", sampling_callback=model) as client:
        started = set(psutil.Process().children(recursive=True)) - before
        [server] = [process for process in started if process.name() == "node"]
        yield client, server


async def test_a_server_in_typescript_remembers_across_its_own_kill(everything: list[str]) -> None:
    heard: list[str] = []
    async with session(everything, heard) as (client, server):
        tool = {tool.name: wire(tool) for tool in (await client.list_tools()).tools}["trigger-sampling-request"]
        assert "continuation_id" in tool["inputSchema"]["properties"]
        result = wire(await client.call_tool("trigger-sampling-request", {"prompt": "My name is Ada."}))
        server.kill()
        with pytest.raises(Exception, match="was ended by signal 9|[Cc]onnection closed"):
            await client.call_tool("trigger-sampling-request", {"prompt": "Are you there?"})
    identity = result["_meta"]["perdure/continuation-id"]

    async with session(everything, heard) as (client, _):
        arguments = {"prompt": "What is my name?", "continuation_id": identity}
        result = wire(await client.call_tool("trigger-sampling-request", arguments))

    assert result["_meta"]["perdure/history"] == {"state": "loaded", "turns": 1, "omitted": 0}
    assert "My name is Ada." in heard[-1]
    assert heard[-1].endswith("What is my name?")
    turns = [turn for turn in turns_in_store() if turn.outcome == Outcome.ANSWERED]
    assert [turn.prompt for turn in turns] == ["My name is Ada.", "What is my name?"]
    assert {turn.continuation_id for turn in turns} == {identity}


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("ping", {}),
    ("tools/list", {}),
    ("prompts/list", {}),
    ("prompts/get", {"name": "args-prompt", "arguments": {"city": "Zürich"}}),
    ("prompts/get", {"name": "none"}),
    ("resources/list", {}),
    ("resources/templates/list", {}),
    ("resources/read", {"uri": "demo://resource/static/document/architecture.md"}),
    ("resources/subscribe", {"uri": "demo://resource/dynamic/text/1"}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "none"}, "argument": {"name": "x", "value": ""}}),
    ("logging/setLevel", {"level": "error"}),
    ("of/the/future", {"x": 1}),
    ("tools/call", {"name": "echo", "arguments": {"message": "a\u2028b\0c \ud83d\ude00"}}),
    ("tools/call", {"name": "echo", "arguments": {}}),
    ("tools/call", {"name": "no-such-tool", "arguments": {}}),
    ("tools/call", {"name": "get-structured-content", "arguments": {"location": "Chicago"}}),
    ("tools/call", {"name": "get-tiny-image", "arguments": {}}),
    ("tools/call", {"name": "get-sum", "arguments": {"a": 0.1, "b": 0.2}}),
    (
        "tools/call",
        {
            "name": "trigger-long-running-operation",
            "arguments": {"duration": 0.1, "steps": 3},
            "_meta": {"progressToken": "p"},
        },
    ),
]


async def seen(client: RawClient) -> list[bytes]:
    await client.ask("initialize", HANDSHAKE)
    client.send("notifications/initialized")
    for method, params in ASKED:
        await client.ask(method, params)
    # How often it tells that its lists have changed is a matter of its own timing.
    return [line for line in client.lines if b"list_changed" not in line]


async def test_whatever_it_says_is_said_alike_through_the_proxy(everything: list[str], runtime: Runtime) -> None:
    async with bare(everything) as client:
        expected = await seen(client)
    async with behind(everything) as client:
        found = await seen(client)
    assert found == expected
    assert sum(b"notifications/progress" in line for line in found) == 3
    assert kept(runtime) == []


def test_a_client_in_typescript_uses_the_proxy_as_it_uses_any_server(everything: list[str], tmp_path: Path) -> None:
    script = Path(__file__).parent / "typescript" / "client.mjs"
    (INSTALLED.parent / "client.mjs").write_bytes(script.read_bytes())  # node looks for packages beside the script
    done = subprocess.run(
        ["node", INSTALLED.parent / "client.mjs", PERDURE, "proxy", "--", *everything],
        env={**os.environ, "PERDURE_TOOLS": '{"echo": {"enabled": true}}'},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    said = json.loads(done.stdout)
    assert "echo" in said["tools"]
    assert said["length"] == len("Echo: ") + 2_000_000
    assert said["meta"]["perdure/persisted"] is True
