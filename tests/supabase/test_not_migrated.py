"""A project without perdure's schema: tools answer as ever and say so; the turns wait until it is migrated."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from mcp_types import CallToolResult
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from servers.unprivileged import wait_until

SERVER = """
    from mcp.server.mcpserver import MCPServer
    from perdure import install, persisted

    mcp = MCPServer("bare project")

    @mcp.tool()
    @persisted
    def chat(prompt: str) -> str:
        return prompt.splitlines()[-1].upper()

    @mcp.tool()
    async def plain(prompt: str) -> str:
        return prompt

    install(mcp, tools=["plain"])
    mcp.run()
"""


class Server:
    """A server process and its client over pipes."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        script = folder / "server.py"
        script.write_text(textwrap.dedent(SERVER))
        self._stderr = folder / "stderr"
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr.open("w"),
            # Terminal width: else the SDK's log handler breaks lines in the middle of words.
            env={**os.environ, "COLUMNS": "10000", **environment},
            text=True,
        )
        self._watchdog = threading.Timer(30, self._process.kill)
        self._watchdog.start()
        self._number = 0

    def __enter__(self) -> Self:
        client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        self._ask("initialize", client)
        self._send({"method": "notifications/initialized"})
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def call(self, tool: str, prompt: str, conversation: str = "c") -> dict[str, Any]:
        arguments = {"prompt": prompt, "continuation_id": conversation}
        result = self._ask("tools/call", {"name": tool, "arguments": arguments})
        CallToolResult.model_validate(result)
        return result

    def stderr(self) -> str:
        """All of it; the server has ended."""
        self._process.stdin.close()
        self._process.wait(10)
        return self._stderr.read_text()

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while True:
            received = json.loads(self._process.stdout.readline())  # whatever is no JSON would be a fault
            if received.get("id") == self._number:
                return received["result"]

    def _send(self, message: dict[str, Any]) -> None:
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._process.stdin.flush()


def knows_perdure(stack: SupabaseStack) -> bool:
    headers = {"apikey": stack.secret_key}
    return httpx.post(f"{stack.url}/rest/v1/rpc/store_status", headers=headers, json={}).is_success


def turns_in(stack: SupabaseStack) -> list[tuple[str, bool, str | None]]:
    """Prompt, whether it was deferred, and outcome, by place."""
    return stack.execute(
        "select q.content, q.deferred, a.outcome from chat_messages q"
        " left join chat_messages a on a.turn_id = q.turn_id and a.part = 1 where q.part = 0 order by q.turn_seq"
    )


@pytest.mark.parametrize("tool", ["chat", "plain"])
def test_tools_answer_and_say_what_is_missing_and_their_turns_go_there_once_it_is_migrated(
    supabase_cluster: PostgresCluster, tmp_path: Path, tool: str
) -> None:
    with SupabaseStack(supabase_cluster, migrated=False) as stack:
        environment = {"USE_SUPABASE": "true", "SUPABASE_URL": stack.url, "SUPABASE_KEY": stack.secret_key}
        with Server(tmp_path, environment) as server:
            for number in range(3):
                result = server.call(tool, f"hello {number}")
                said = result["content"][0]["text"]
                assert said.endswith(f"HELLO {number}" if tool == "chat" else f"hello {number}")
                assert result.get("isError", False) is False
                meta = result["_meta"]
                assert (meta["perdure/persisted"], meta["perdure/deferred"]) == (True, True)
                assert meta["perdure/fault"] == "store_misconfigured"
                assert "perdure migrate" in meta["perdure/remedy"]
                assert meta["perdure/history"] == {"state": "unavailable", "turns": number, "omitted": 0}

            migrated = subprocess.run(
                [sys.executable, "-c", "from perdure.cli import main; main()", "migrate"],
                env={**os.environ, "PERDURE_DATABASE_URL": stack.db_url},
                capture_output=True,
                text=True,
                check=False,
            )
            assert migrated.returncode == 0, migrated.stderr
            wait_until(lambda: knows_perdure(stack), "PostgREST did not learn of the new functions")
            kept = server.call(tool, "again")
            assert kept["_meta"]["perdure/persisted"] is True
            wait_until(lambda: all(outcome for *_, outcome in turns_in(stack)), "the turns were not sent")
            last = server.call(tool, "once more")
            assert "perdure/fault" not in last["_meta"]
            assert last["_meta"]["perdure/history"] == {"state": "loaded", "turns": 4, "omitted": 0}
            said = server.stderr()
        assert turns_in(stack) == [
            ("hello 0", True, "answered"),
            ("hello 1", True, "answered"),
            ("hello 2", True, "answered"),
            ("again", kept["_meta"].get("perdure/deferred", False), "answered"),
            ("once more", False, "answered"),
        ]
    told = [line for line in said.splitlines() if "perdure migrate" in line]
    assert len(told) == 1, said
    assert stack.secret_key not in said
