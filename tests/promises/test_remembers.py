"""A conversation survives `kill -9` of its server: real clients, real processes, real kills."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from backends import Backend
from conftest import on_every_backend
from mcp import Client, StdioServerParameters

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "restart_demo.py"

SERVER = """
import asyncio, sys
from pathlib import Path
from mcp.server.mcpserver import MCPServer
from perdure import History, persisted

mcp = MCPServer("test")

@mcp.tool()
@persisted
async def chat(prompt: str, history: History) -> str:
    return " | ".join(turn.prompt for turn in history)

@mcp.tool()
@persisted
def chat_sync(prompt: str, history: History) -> str:
    return " | ".join(turn.prompt for turn in history)

@mcp.tool()
@persisted
async def never(prompt: str, reached: str) -> str:
    Path(reached).touch()
    await asyncio.sleep(3600)
    return "unreachable"

mcp.run()
"""


@asynccontextmanager
async def server(folder: Path, backend: Backend) -> AsyncIterator[tuple[Client, int]]:
    script, pid_file = folder / "server.py", folder / "pid"
    script.write_text(SERVER)
    command = f'echo $$ > "{pid_file}"; exec "{sys.executable}" "{script}"'
    environment = {**os.environ, "PERDURE_CONFIG": os.devnull, **backend.environment}
    async with Client(StdioServerParameters(command="/bin/sh", args=["-c", command], env=environment)) as client:
        yield client, int(pid_file.read_text())


def cli(backend: Backend, *arguments: str) -> dict:
    environment = {**os.environ, "PERDURE_CONFIG": os.devnull, **backend.environment}
    ran = subprocess.run(
        [sys.executable, "-c", "from perdure.cli import main; main()", *arguments, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


@on_every_backend
@pytest.mark.parametrize("tool", ["chat", "chat_sync"])
async def test_a_conversation_goes_on_after_three_kills(tmp_path: Path, backend: Backend, tool: str) -> None:
    conversation = {}
    for said in ["one", "two", "three"]:
        async with server(tmp_path, backend) as (client, pid):
            result = await client.call_tool(tool, {"prompt": said, **conversation})
            conversation = {"continuation_id": result.meta["perdure/continuation-id"]}
            os.kill(pid, signal.SIGKILL)

    async with server(tmp_path, backend) as (client, _):
        result = await client.call_tool(tool, {"prompt": "four", **conversation})

    assert result.content[0].text == "one | two | three"
    assert result.meta["perdure/history"] == {"state": "loaded", "turns": 3, "omitted": 0}


@on_every_backend
async def test_a_call_that_the_kill_cut_off_leaves_its_prompt_and_no_gap(tmp_path: Path, backend: Backend) -> None:
    reached = tmp_path / "reached"
    async with server(tmp_path, backend) as (client, pid), anyio.create_task_group() as tasks:

        async def call() -> None:
            arguments = {"prompt": "cut off", "reached": str(reached), "continuation_id": "c"}
            with pytest.raises(Exception, match=r".*"):
                await client.call_tool("never", arguments)

        tasks.start_soon(call)
        with anyio.fail_after(10):
            while not reached.exists():
                await anyio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    async with server(tmp_path, backend) as (client, _):
        await client.call_tool("chat", {"prompt": "after", "continuation_id": "c"})

    turns = cli(backend, "conversations", "show", "c")["turns"]
    assert [(turn["place"], turn["prompt"], turn["outcome"]) for turn in turns] == [
        (1, "cut off", "running"),  # interrupted, once its lease is over
        (2, "after", "answered"),
    ]


@on_every_backend
def test_the_demo_shows_it(backend: Backend) -> None:
    environment = {**os.environ, **backend.environment}
    ran = subprocess.run([sys.executable, DEMO], env=environment, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "It remembers." in ran.stdout


def test_the_demo_fails_loudly_without_memory() -> None:
    without = {**os.environ, "PERDURE_BACKEND": "memory"}

    ran = subprocess.run([sys.executable, DEMO], env=without, capture_output=True, text=True, check=False)

    assert ran.returncode == 1
    assert "FAILED" in ran.stdout
    assert "It remembers." not in ran.stdout
