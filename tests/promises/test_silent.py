"""On a stdio server nothing but the protocol reaches stdout, whatever goes wrong; what goes wrong is said on stderr."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SERVER = """
import sys, logging
from mcp.server.mcpserver import MCPServer
import perdure
from perdure import History, install, persisted

mcp = MCPServer("test", log_level="ERROR") if {quiet} else MCPServer("test")

@mcp.tool()
@persisted
async def chat(prompt: str, history: History) -> str:
    if prompt == "crash":
        raise RuntimeError("crashed")
    return "answered " + prompt

@mcp.tool()
@persisted(history="none")
def chat_sync(prompt: str) -> str:
    return "answered " + prompt

@mcp.tool()
def bare(prompt: str) -> str:
    return "answered " + prompt

install(mcp, tools=["bare"])  # continues "c" with the transcript in its prompt, where the store can be read
mcp.run()
"""

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def corrupt_database(data: Path, _: dict[str, str]) -> None:
    data.mkdir()
    (data / "perdure.db").write_bytes(b"this is no database " * 1000)


def data_directory_is_a_file(data: Path, _: dict[str, str]) -> None:
    data.write_text("a file stands here")


def settings_with_a_typo(data: Path, environment: dict[str, str]) -> None:
    settings = data.with_name("perdure.toml")
    settings.write_text('[tools.chat]\nhistroy = "auto"\n')
    environment["PERDURE_CONFIG"] = str(settings)


def settings_that_are_no_toml(data: Path, environment: dict[str, str]) -> None:
    settings = data.with_name("perdure.toml")
    settings.write_text("backend = = sqlite")
    environment["PERDURE_CONFIG"] = str(settings)


def settings_that_are_missing(data: Path, environment: dict[str, str]) -> None:
    environment["PERDURE_CONFIG"] = str(data.with_name("nowhere.toml"))


def misspelt_variable(_: Path, environment: dict[str, str]) -> None:
    environment["PERDURE_BAKEND"] = "sqlite"


def bad_value(_: Path, environment: dict[str, str]) -> None:
    environment["PERDURE_OPERATION_TIMEOUT"] = "soon"


def nothing(_: Path, __: dict[str, str]) -> None:
    pass


FAULTS: list[tuple[Callable[[Path, dict[str, str]], None], str, list[str]]] = [
    (nothing, "", []),
    (corrupt_database, "store_unavailable", ["perdure.db", "not a database", "Remedy: move it aside"]),
    (data_directory_is_a_file, "store_unavailable", ["data", "cannot be", "PERDURE_DATA_DIR"]),
    (settings_with_a_typo, "settings_invalid", ["perdure.toml", "tools.chat.histroy", 'did you mean "history"']),
    (settings_that_are_no_toml, "settings_invalid", ["perdure.toml", "is not TOML", "line 1"]),
    (settings_that_are_missing, "settings_invalid", ["nowhere.toml", "cannot be read"]),
    (misspelt_variable, "settings_invalid", ["PERDURE_BAKEND", "Did you mean PERDURE_BACKEND?"]),
    (bad_value, "settings_invalid", ["PERDURE_OPERATION_TIMEOUT", "must be a valid number"]),
]


@pytest.mark.parametrize("quiet", [False, True], ids=["default-log", "quiet-log"])
@pytest.mark.parametrize(("fault", "code", "words"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS])
def test_only_json_rpc_reaches_stdout(
    tmp_path: Path, fault: Callable[[Path, dict[str, str]], None], code: str, words: list[str], quiet: bool
) -> None:
    environment = {**os.environ, "PERDURE_DATA_DIR": str(tmp_path / "data"), "PERDURE_CONFIG": os.devnull}
    environment["COLUMNS"] = "1000"  # the SDK's log breaks lines within words otherwise
    fault(tmp_path / "data", environment)
    (tmp_path / "server.py").write_text(SERVER.replace("{quiet}", str(quiet)))
    calls = [("chat", "hello"), ("chat_sync", "hello"), ("bare", "hello"), ("chat", "crash"), ("chat", "again")]
    lines = [request(1, "tools/list", {})] + [
        request(number, "tools/call", {"name": name, "arguments": {"prompt": prompt, "continuation_id": "c"}})
        for number, (name, prompt) in enumerate(calls, start=2)
    ]

    with (tmp_path / "stderr").open("w") as stderr:  # a pipe that nobody reads would fill, and stop the server
        server = subprocess.Popen(
            [sys.executable, tmp_path / "server.py"],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        answers = {}
        for line in lines:  # one after the other: a call that is under way when stdin closes is cancelled
            server.stdin.write(line + "\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            answers[answer["id"]] = answer["result"]
        server.stdin.close()
        rest = server.stdout.read()
        server.wait(30)
        said = (tmp_path / "stderr").read_text()
    finally:
        server.kill()
        server.wait()

    assert rest == ""
    assert sorted(answers) == [1, 2, 3, 4, 5, 6]
    for number, (name, prompt) in enumerate(calls, start=2):
        result = answers[number]
        if prompt == "crash":
            assert result["isError"] is True
            assert "crashed" not in json.dumps(result)
            continue
        assert result["content"][0]["text"].startswith("answered ")
        assert result["content"][0]["text"].endswith(prompt)
        remembers = fault in (nothing, corrupt_database)
        assert ("conversation_history" in result["content"][0]["text"]) == (remembers and name == "bare")
        if code:
            # Beside a damaged database there is room for the spool, until somebody has seen to it.
            assert result["_meta"]["perdure/persisted"] is (fault is corrupt_database)
            assert result["_meta"]["perdure/fault"] in (code, "store_left_alone", "turns_waiting")
            assert result["_meta"]["perdure/history"]["state"] == "unavailable"
        else:
            assert result["_meta"]["perdure/persisted"] is True
    for word in words:
        assert word in " ".join(said.split())


def request(number: int, method: str, params: dict) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": META}})
