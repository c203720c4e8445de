"""Each example does what examples/README.md says of it, as a process of its own, across restarts."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

REPOSITORY = Path(__file__).parents[2]

EXAMPLES = REPOSITORY / "examples"


def example(name: str, *, python: str = sys.executable, **variables: str) -> StdioServerParameters:
    return StdioServerParameters(command=python, args=[str(EXAMPLES / name)], env={**os.environ, **variables})


async def call(server: StdioServerParameters, tool: str, **arguments: Any) -> str:
    """What a server says that is started for this call, and ended after it."""
    async with Client(server) as client:
        result = await client.call_tool(tool, {**arguments, "continuation_id": "c"})
        assert not result.is_error, result.content
        assert result.meta is not None
        assert result.meta["perdure/persisted"] is True
        text: str = result.content[0].text  # type: ignore[union-attr]
        return text


class Endpoint(ThreadingHTTPServer):
    """Speaks chat completions: it answers how many messages it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Completions)
        self.asked: list[dict[str, Any]] = []


class _Completions(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append({"path": self.path, "key": self.headers["authorization"], **body})
        said = {"choices": [{"message": {"role": "assistant", "content": f"{len(body['messages'])} messages"}}]}
        answer = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_model_behind_any_openai_endpoint_is_given_what_was_said_before_a_restart() -> None:
    with endpoint() as model:
        server = example(
            "openai_chat.py",
            OPENAI_BASE_URL=f"http://127.0.0.1:{model.server_port}/v1",
            OPENAI_MODEL="llama3.2",
            OPENAI_API_KEY="a-key",
        )
        assert await call(server, "chat", prompt="My cat is called Ada.") == "1 messages"
        assert await call(server, "chat", prompt="What is my cat called?") == "3 messages"
    last = model.asked[-1]
    assert (last["path"], last["key"], last["model"]) == ("/v1/chat/completions", "Bearer a-key", "llama3.2")
    assert [(message["role"], message["content"]) for message in last["messages"]] == [
        ("user", "My cat is called Ada."),
        ("assistant", "1 messages"),
        ("user", "What is my cat called?"),
    ]


async def test_a_chart_is_drawn_of_a_table_that_another_process_wrote() -> None:
    server = example("file_maker.py")
    table = await call(server, "table", rows=[["tea & milk", "3"], ["coffee", "6"]], name="drinks")
    assert re.fullmatch(r"storage://mcp-files/local/[0-9a-f]{64}/drinks\.csv", table)
    chart = await call(server, "chart", path=table)
    assert chart.endswith("/drinks.svg")
    async with Client(server) as client:
        picture = base64.b64decode((await client.read_resource(chart)).contents[0].blob).decode()  # type: ignore[union-attr]
    assert "tea &amp; milk" in picture
    assert 'width="150"' in picture


async def test_classes_of_a_low_level_server_remember_by_one_line() -> None:
    server = example("lowlevel_server.py")
    assert await call(server, "chat", prompt="Hello.") == "I was given 1 lines, the last of them: Hello."
    again = await call(server, "chat", prompt="Hello again.")
    assert re.fullmatch(r"I was given [2-9] lines, the last of them: Hello again\.", again)
    async with Client(server) as client:
        version = await client.call_tool("version", {})
        assert version.meta is None or "perdure/turn-id" not in version.meta


async def test_a_mounted_server_of_fastmcp_remembers() -> None:
    python = REPOSITORY / ".venv" / "fastmcp4" / "bin" / "python"
    assert python.exists(), "there is no fastmcp here: make .venv/fastmcp4.stamp"
    server = example("fastmcp_server.py", python=str(python))
    assert await call(server, "notes_note", prompt="Milk.") == "1 notes, the first of them: Milk."
    assert await call(server, "notes_note", prompt="Bread.") == "2 notes, the first of them: Milk."


async def test_a_server_in_typescript_is_built_and_remembers_behind_the_proxy(tmp_path: Path) -> None:
    installed = REPOSITORY / ".venv" / "typescript" / "node_modules"
    assert installed.exists(), "nothing of npm is here: make .venv/typescript.stamp"
    folder = tmp_path / "typescript"
    shutil.copytree(EXAMPLES / "typescript", folder, ignore=shutil.ignore_patterns("node_modules", "*.js"))
    (folder / "node_modules").symlink_to(installed)
    subprocess.run(["npm", "run", "build"], cwd=folder, check=True, capture_output=True, timeout=120)
    server = StdioServerParameters(
        command=str(Path(sys.executable).parent / "perdure"),
        args=["--config", "perdure.toml", "proxy", "--", "node", "server.js"],
        cwd=folder,
        env=dict(os.environ),
    )
    assert await call(server, "chat", prompt="Hello.") == "I was given 1 lines, the last of them: Hello."
    again = await call(server, "chat", prompt="Hello again.")
    assert re.fullmatch(r"I was given [2-9] lines, the last of them: Hello again\.", again)


def test_every_example_is_listed_with_its_command() -> None:
    text = (EXAMPLES / "README.md").read_text()
    there = {path.name for path in EXAMPLES.glob("*.py")} | {"typescript/"}
    assert set(re.findall(r"^\| \[([\w./]+)\]", text, re.MULTILINE)) == there
    commands = re.findall(r"`([^`]+)` \|$", text, re.MULTILINE)
    assert len(commands) == len(there)
    scripts = re.findall(r"examples/(\w+\.py)", " ".join(commands))
    assert set(scripts) <= {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", ["openai_chat.py", "file_maker.py", "lowlevel_server.py", "fastmcp_server.py"])
def test_an_example_is_small(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 80
