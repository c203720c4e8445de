"""`perdure tools` over real servers: what each tool gets, where that came from, and what can go wrong."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic_core import to_jsonable_python
from rich.console import Console

from perdure.cli import main
from perdure.cli import tools as cli_tools
from perdure.middleware.sdk import tool_client
from perdure.settings import Policy
from perdure.settings_loader import load_settings, tool_settings

SERVER = """
import sys
from mcp.server.mcpserver import MCPServer
from perdure import install, persisted

mcp = MCPServer("some server", version="1.2")

async def answer(prompt: str) -> str:
    return prompt

mcp.add_tool(persisted(history="none", max_turns=5)(answer), name="decorated")

for name in ("kimi_chat", "kimi_think", "version"):
    async def bare(prompt: str) -> str:
        return prompt
    mcp.add_tool(bare, name=name)

install(mcp, tools=["kimi_think"])
mcp.run("streamable-http", port=int(sys.argv[1])) if len(sys.argv) > 1 else mcp.run()
"""

SETTINGS = """
user_id = "me"
[defaults]
max_tokens = 9
[tools."kimi_*"]
enabled = true
file_roots = ["/srv/a", "/srv/b"]
expire_after = "36h"
[tools.kimi_chat]
max_tokens = 32000
announce = "meta"
[tools.kimi_caht]
max_turns = 1
"""

PLAIN = """
import asyncio
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp_types import ListToolsResult, Tool

async def list_tools(ctx, params):
    page = int((params and params.cursor) or 0)
    names = ["first", "sec\\x1b[31mond"] if page == 0 else ["third"]
    tools = [Tool(name=name, input_schema={"type": "object"}) for name in names]
    return ListToolsResult(tools=tools, next_cursor="1" if page == 0 else None)

async def main():
    server = Server("plain", on_list_tools=list_tools)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

asyncio.run(main())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    Path(os.environ["PERDURE_CONFIG"]).write_text(SETTINGS)
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    return script


class Here:
    """The same program, within this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        monkeypatch.setattr(logging.getLogger("mcp"), "level", logging.NOTSET)  # set back afterwards
        monkeypatch.setattr(tool_client, "_AFTER_GARBAGE", 0.5)

    def run(self, *arguments: object) -> tuple[object, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["perdure", "tools", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *self.capsys.readouterr()

    def json(self, *arguments: object) -> dict:
        code, out, error = self.run("--json", *arguments)
        assert (code, error) == (0, "")
        return json.loads(out)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capsys)


def told(answer: dict) -> dict:
    """Each tool's settings as (value, source)."""
    return {
        tool["name"]: {name: (one["value"], one["source"]["name"]) for name, one in tool["policy"].items()}
        for tool in answer["tools"]
    }


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_tool_is_told_with_what_differs_from_the_built_in_and_where_that_came_from(
    script: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_TOOLS__VERSION__REDACT", "false")
    answer = here.json("--", sys.executable, script)
    user, tokens = {"user_id": ("me", "top of the file")}, {"max_tokens": (9, "[defaults]")}
    of_kimi = {
        "file_roots": (["/srv/a", "/srv/b"], '[tools."kimi_*"]'),
        "expire_after": ("P1DT12H", '[tools."kimi_*"]'),
    }
    assert told(answer) == {
        "decorated": {
            "enabled": (True, "@persisted"),
            "history": ("none", "@persisted"),
            "max_turns": (5, "@persisted"),
            **user,
            **tokens,
        },
        "kimi_chat": {
            "enabled": (True, '[tools."kimi_*"]'),
            "max_tokens": (32000, "[tools.kimi_chat]"),
            "announce": (["meta"], "[tools.kimi_chat]"),
            **user,
            **of_kimi,
        },
        "kimi_think": {"enabled": (True, '[tools."kimi_*"]'), **user, **tokens, **of_kimi},
        "version": {
            "enabled": (False, "built in"),
            "redact": (False, "PERDURE_TOOLS__VERSION__REDACT"),
            **user,
            **tokens,
        },
    }
    assert answer["server"] == {"name": "some server", "version": "1.2"}
    assert answer["settings_file"] == os.environ["PERDURE_CONFIG"]
    assert answer["unused_sections"] == ["[tools.kimi_caht]"]


def test_with_all_every_setting_is_told_as_a_running_server_goes_by_it(script: Path, here: Here) -> None:
    settings = load_settings()
    found = told(here.json("--all", "--", sys.executable, script))
    in_code = {"decorated": {"history": "none", "max_turns": 5}, "kimi_chat": None, "kimi_think": {}, "version": None}
    for tool, options in in_code.items():
        policy = settings.policy(tool, None if options is None else tool_settings(options))
        assert set(found[tool]) == set(Policy.__dataclass_fields__)
        for name, (value, _) in found[tool].items():
            assert value == to_jsonable_python(getattr(policy, name)) or sorted(value) == sorted(policy.announce)
        assert found[tool]["acknowledge"] == ("store", "built in")


def test_a_server_that_knows_nothing_of_perdure_is_listed_to_its_last_page(tmp_path: Path, here: Here) -> None:
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    Path(os.environ["PERDURE_CONFIG"]).write_text("[tools.third]\nenabled = true")
    found = told(here.json("--", sys.executable, script))
    assert [found[name]["enabled"] for name in found] == [
        (False, "built in"),
        (False, "built in"),
        (True, "[tools.third]"),
    ]
    _, shown, _ = here.run("--", sys.executable, script)
    assert "\x1b" not in shown
    assert "third" in shown


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_its_window_and_says_what_the_json_says(
    script: Path, columns: int, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_tools, "console", lambda: Console(width=columns, highlight=False, emoji=False))
    code, out, error = here.run("--", sys.executable, script)
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert max(len(line) for line in lines if os.environ["PERDURE_CONFIG"] not in line) <= columns
    words = [line.split() for line in lines if line.strip()]
    assert words[0] == ["tool", "value", "from"]
    for expected in (
        ["decorated", "on", "@persisted"],
        ["history", "none", "@persisted"],
        ["expire_after", "36h", '[tools."kimi_*"]'],
        ["version", "off", "built", "in"],
        ["announce", "meta", "[tools.kimi_chat]"],
    ):
        assert expected in words
    assert "some server: 3 of 4 tools are on" in out
    assert "[tools.kimi_caht] means no tool of this server. Did you mean [tools.kimi_chat]?" in out


def test_a_config_that_is_named_is_the_servers_too_and_what_install_names_is_known(
    script: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[tools.version]\nenabled = true")
    command = [sys.executable, "-c", "from perdure.cli import main; main()", "--config", str(other), "tools", "--json"]
    ran = subprocess.run([*command, "--", sys.executable, script], capture_output=True, text=True, check=True)
    answer = json.loads(ran.stdout)
    assert answer["settings_file"] == str(other)
    assert told(answer)["version"] == {"enabled": (True, "[tools.version]")}
    assert told(answer)["kimi_think"] == {"enabled": (True, "install(tools=…)")}


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def url(script: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, script, str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def test_a_server_behind_an_address_tells_its_tools_but_not_its_code(url: str, here: Here) -> None:
    found = told(here.json("--url", url))
    assert found["kimi_chat"]["enabled"] == (True, '[tools."kimi_*"]')
    assert found["decorated"]["enabled"] == (False, "built in")  # what its code says, it tells nobody over HTTP


# ── what can go wrong ────────────────────────────────────────────────────────────────────────────────────────────

FAULTS = {
    "no such program": (
        ["no-such-program"],
        ["no-such-program cannot be started", "perdure tools -- python server.py"],
    ),
    "ends at once": (
        ["sh", "-c", "echo 'no config found' >&2; exit 3"],
        ["did not tell its tools", "It said last: no config found"],
    ),
    "garbage": (
        ["sh", "-c", "while true; do echo 'Hello!'; sleep 0.1; done"],
        ["prints other things on its stdout: 'Hello!'", "belongs on its stderr"],
    ),
    "garbage, then silence": (["sh", "-c", "echo 'Hello!'; sleep 1000"], ["'Hello!'"]),
    "never answers": (["sleep", "1000"], ["did not answer within 1 s", "--timeout"]),
    "does not want to end": (["sh", "-c", "trap '' TERM; sleep 1000"], ["did not answer within 1 s"]),
    "echoes": (["cat"], ["did not tell its tools"]),
    "ends without a word": (["true"], ["did not tell its tools"]),
    "not an MCP server's address": (["--url", "http://127.0.0.1:9/mcp"], ["http://127.0.0.1:9/mcp", "address"]),
    "neither": ([], ["either by its command or by its address"]),
    "both": (["--url", "http://x/mcp", "true"], ["either by its command or by its address"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_is_one_message_and_nothing_is_left_running(
    fault: str, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, words = FAULTS[fault]
    monkeypatch.setenv("MARK", fault)
    timeout = "30" if "garbage" in fault else "1"
    code, out, error = here.run("--timeout", timeout, *(command if command[:1] == ["--url"] else ["--", *command]))
    assert (code, out) == (1, "")
    assert error.startswith("perdure: ")
    assert len(error.splitlines()) == 2  # what happened, and what to do
    for word in words:
        assert word in error
    assert [process.cmdline() for process in _started_with(fault)] == []


def test_settings_that_cannot_be_used_are_said_before_anything_is_started(here: Here, tmp_path: Path) -> None:
    Path(os.environ["PERDURE_CONFIG"]).write_text("[tools.x]\nmax_turn = 1")
    code, _, error = here.run("--", "sh", "-c", f"touch {tmp_path / 'started'}")
    assert code == 1
    assert 'did you mean "max_turns"' in error
    assert not (tmp_path / "started").exists()


def test_a_server_without_tools_is_none_of_the_faults(here: Here, tmp_path: Path) -> None:
    script = tmp_path / "empty.py"
    script.write_text('from mcp.server.mcpserver import MCPServer\nMCPServer("empty").run()')
    assert here.run("--", sys.executable, script) == (0, "empty has no tools.\n", "")


def _started_with(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("MARK") == mark:
                yield process
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
