"""A stdio server in a process of its own: restarts, kills, and nothing but the protocol on its stdout."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from seams.suite.acting_tools import acting, waiting
from seams.suite.conversing_tools import conversing
from seams.worlds.world import Json, World
from wire_form import text_of

from perdure import Outcome


async def test_a_conversation_goes_on_after_a_restart(world: World) -> None:
    async with world.serve_as_process(conversing) as client:
        await client.call_tool("chat", {"prompt": "first words", "continuation_id": "c"})
    async with world.serve_as_process(conversing) as client:
        result = await client.call_tool("chat", {"prompt": "second words", "continuation_id": "c"})
    assert "first words" in text_of(result)
    assert result["_meta"]["perdure/history"]["turns"] == 1


def _requests(*calls: Json) -> list[Json]:
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        *({"jsonrpc": "2.0", "id": number, **call} for number, call in enumerate(calls, 1)),
    ]


def _call(tool: str, arguments: Json) -> Json:
    return {"method": "tools/call", "params": {"name": tool, "arguments": arguments}}


def _started(world: World, toolbox: object) -> "subprocess.Popen[str]":
    world.write_settings()
    pipe = subprocess.PIPE
    return subprocess.Popen(
        world.command(toolbox),  # type: ignore[arg-type]
        stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ),
    )  # fmt: skip


def _ask(server: "subprocess.Popen[str]", request: Json) -> list[Json]:
    """What the server says until it has answered: every line has to be JSON."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    said: list[Json] = []
    while "id" in request and not (said and said[-1].get("id") == request["id"]):
        said.append(json.loads(server.stdout.readline()))
    return said


def _no_fault() -> None:
    pass


def _data_directory_is_a_file() -> None:
    Path(os.environ["PERDURE_DATA_DIR"]).write_text("a file stands here")


@pytest.mark.parametrize("fault", [_no_fault, _data_directory_is_a_file])
def test_nothing_but_the_protocol_reaches_stdout(fault: object, world: World) -> None:
    server = _started(world, acting)
    fault()  # type: ignore[operator]  # before the first call, which reads the settings and opens the store
    calls = [_call("fail", {"prompt": "a", "continuation_id": "c"}), _call("crash", {"prompt": "b"}), _call("work", {})]
    with server:
        for request in _requests({"method": "tools/list"}, *calls):
            assert all(said["jsonrpc"] == "2.0" for said in _ask(server, request))
        rest, _ = server.communicate(timeout=20)
    assert rest == ""


def test_a_call_whose_server_is_killed_leaves_its_prompt(world: World, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    with _started(world, waiting) as server:
        *opening, call = _requests(_call("wait", {"marker": str(marker), "continuation_id": "c"}))
        for request in opening:
            _ask(server, request)
        assert server.stdin is not None
        server.stdin.write(json.dumps(call) + "\n")
        server.stdin.flush()
        while not marker.with_name("killed.begun").exists():
            assert server.poll() is None
        server.send_signal(signal.SIGKILL)
    [turn] = world.turns()
    assert (turn.place, turn.prompt, turn.outcome) == (1, str(marker), Outcome.RUNNING)
