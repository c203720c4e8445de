"""`perdure proxy` as it is typed, and what is said of a line that cannot be understood."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.cli.app import app

PERDURE = Path(sys.executable).with_name("perdure")
TALKS = (
    'import sys; print(\'{"jsonrpc":"2.0","method":"argv","params":%s}\' % __import__(\'json\').dumps(sys.argv[1:]))'
)
RAW_SERVER = Path(__file__).parents[1] / "proxy" / "raw_server.py"


def run(*arguments: str, given: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PERDURE, *arguments],
        input=given,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("separator", [["--"], []])
def test_everything_after_the_command_is_the_commands_own(separator: list[str]) -> None:
    own = ["--url", "x", "--header", "--help", "--", "-v"]
    done = run("proxy", *separator, sys.executable, "-c", TALKS, *own)
    assert json.loads(done.stdout)["params"] == own


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the server: `perdure proxy -- COMMAND …`"),
        (["--url", "http://localhost/mcp", "--", "node"], "not both"),
        (["--header", "A:b", "--", "node"], "not both"),
        (["--url", "localhost:8000/mcp"], "begins with https:// or http://"),
        (["--url", "https://"], "begins with https:// or http://"),
        (["--url", "http://localhost/mcp", "--header", "Authorization s3cret"], "--header takes NAME:VALUE"),
        (["--url", "http://localhost/mcp", "--header", "Authorization: s3cret\nX: y"], "--header takes NAME:VALUE"),
        (["--url", "http://localhost/mcp", "--header", "Author ization: s3cret"], "--header takes NAME:VALUE"),
    ],
)
def test_a_line_that_cannot_be_understood_is_refused_in_words(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["proxy", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert words in done.stderr
    assert "s3cret" not in done.stderr
    assert done.stdout == ""


LISTING = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n'


def test_an_operator_who_has_named_no_tool_is_told_which_there_are() -> None:
    done = run("proxy", "--", sys.executable, str(RAW_SERVER), given=LISTING)
    assert "no tool is switched on. This server's tools: answer, arguments, ask, big" in done.stderr
    assert 'write [tools.NAME] with "enabled = true" in perdure.toml.' in done.stderr
    assert "install(" not in done.stderr


def test_the_settings_file_may_be_named_before_the_command(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('backend = "memory"\n[tools.echo]\nenabled = true\n')
    call = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"prompt":"x"}}}\n'
    done = run("--config", str(tmp_path / "mine.toml"), "proxy", "--", sys.executable, str(RAW_SERVER), given=call)
    assert json.loads(done.stdout)["result"]["_meta"]["perdure/persisted"] is True


def test_settings_that_cannot_be_used_switch_recording_off_and_the_server_answers() -> None:
    call = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"prompt":"x"}}}\n'
    done = run("proxy", "--", sys.executable, str(RAW_SERVER), given=call, PERDURE_BACKEND="none")
    assert json.loads(done.stdout)["result"]["content"] == [{"type": "text", "text": "heard x"}]
    assert "PERDURE_BACKEND: backend" in done.stderr
