"""`perdure run`: servers of other people remember, and are otherwise what they are."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_wire import announced_id, text_of, wire, without_announcement
from run.starting import PERDURE, PYTHON, RUN, SERVER, ended, named, over_http, over_stdio, wire_of

from perdure.middleware.persistence.turn import Turn
from perdure.middleware.persistence.wiring import build
from perdure.settings_loader import load_settings

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("tools/list", {}),
    ("tools/call", {"name": "chat", "arguments": {"prompt": "hello"}}),
    ("tools/call", {"name": "chat", "arguments": {"prompt": "fail"}}),
    ("tools/call", {"name": "chat", "arguments": {}}),
    ("tools/call", {"name": "add", "arguments": {"a": 1}}),
    ("tools/call", {"name": "nothing", "arguments": {}}),
    ("resources/list", {}),
    ("server/discover", {}),
    ("no/such/method", {}),
]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder with a server, as a script, as a module, and as an installed command."""
    folder = tmp_path / "theirs"
    (folder / "package").mkdir(parents=True)
    (folder / "server.py").write_text(SERVER)
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "server.py").write_text(SERVER)
    (folder / "package" / "__main__.py").write_text("from .server import main\nmain()\n")
    command = folder / "their-server"
    command.write_text(f"#!{PYTHON}\nimport sys\nsys.path.insert(0, {str(folder)!r})\n{SERVER}")
    command.chmod(0o755)
    return folder


def kept() -> list[Turn]:
    engine = build(load_settings()).engine
    try:
        return [
            turn
            for line in reversed(engine.conversations())
            for turn in engine.turns(line.principal, line.continuation_id)
        ]
    finally:
        engine.store.close()


async def say(client: Client, prompt: str, **more: str) -> dict[str, Any]:
    return wire(await client.call_tool("chat", {"prompt": prompt, **more}))


# ── they remember ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", [["server.py"], ["-m", "package"], ["--", "./their-server"]], ids=" ".join)
async def test_a_server_remembers_over_stdio_after_it_was_started_anew(words: list[str], theirs: Path) -> None:
    named("chat")
    async with over_stdio([*RUN, *words], cwd=theirs) as client:
        first = await say(client, "one")
    assert text_of(first) == "heard one"
    async with over_stdio([*RUN, *words], cwd=theirs) as client:
        second = await say(client, "two", continuation_id=announced_id(first))
    assert "heard one" in text_of(second)
    assert text_of(second).endswith("\n\ntwo")
    assert [(turn.prompt, turn.place) for turn in kept()] == [("one", 1), ("two", 2)]


async def test_a_server_remembers_over_streamable_http_after_it_was_started_anew(theirs: Path) -> None:
    named("chat")
    conversation: dict[str, str] = {}
    for said in ("one", "two"):
        with over_http([*RUN, "server.py"], cwd=theirs) as address:
            async with Client(address) as client:
                result = await say(client, said, **conversation)
                conversation = {"continuation_id": announced_id(result)}
    assert "heard one" in text_of(result)
    assert [turn.place for turn in kept()] == [1, 2]


async def test_settings_are_those_that_the_option_names(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[tools.chat]\nenabled = true\n")
    command = [*PERDURE, "--config", "../other.toml", "run", "server.py"]
    async with over_stdio(command, cwd=theirs) as client:
        assert (await say(client, "one"))["_meta"]["perdure/persisted"] is True


LOWLEVEL = """
import anyio
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

async def tools(ctx, params):
    return ListToolsResult(tools=[Tool(name="chat", input_schema={"type": "object"})])

async def call(ctx, params):
    return CallToolResult(content=[TextContent(type="text", text=f"heard {params.arguments}")])

async def main():
    server = Server("theirs", on_list_tools=tools, on_call_tool=call)
    async with stdio_server() as streams:
        await server.run(*streams, server.create_initialization_options())

anyio.run(main)
"""


async def test_a_lowlevel_server_is_covered_too(theirs: Path) -> None:
    named("chat")
    (theirs / "server.py").write_text(LOWLEVEL)
    async with over_stdio([*RUN, "server.py"], cwd=theirs) as client:
        result = await say(client, "one", continuation_id="mine")
    assert text_of(result) == "heard {'prompt': 'one'}"
    assert announced_id(result) == "mine"


ASKING = """
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult

mcp = MCPServer("theirs", log_level="ERROR")

@mcp.tool()
async def chat(prompt: str, ctx: Context) -> str | InputRequiredResult:
    if not ctx.input_responses:
        form = ElicitRequestFormParams(message="Sure?", requested_schema={"type": "object", "properties": {}})
        return InputRequiredResult(input_requests={"sure": ElicitRequest(params=form)}, request_state="my own")
    return f"{prompt} {ctx.request_state}"

mcp.run()
"""


async def test_a_call_of_several_legs_is_one_turn_and_its_state_stays_sealed_by_the_sdk(theirs: Path) -> None:
    from mcp_types import ElicitResult

    named("chat")
    (theirs / "server.py").write_text(ASKING)
    async with over_stdio([*RUN, "server.py"], cwd=theirs) as client:
        asked = wire(await client.session.call_tool("chat", {"prompt": "trip"}, allow_input_required=True))
        assert asked["requestState"].startswith("v1.")
        result = await client.session.call_tool(
            "chat",
            {"prompt": "trip"},
            request_state=asked["requestState"],
            input_responses={"sure": ElicitResult(action="accept", content={})},
        )
    assert text_of(wire(result)) == "trip my own"
    assert [turn.answer and turn.answer.text for turn in kept()] == ["trip my own"]


async def test_a_server_that_knows_of_perdure_itself_is_covered_once(theirs: Path) -> None:
    named("add")
    decorated = SERVER.replace("@mcp.tool()\nasync def chat", "@mcp.tool()\n@persisted\nasync def chat")
    decorated = decorated.replace("import socket", "import socket\nfrom perdure import install, persisted")
    (theirs / "server.py").write_text(decorated.replace("def main():", "install(mcp)\n\ndef main():"))
    async with over_stdio([*RUN, "server.py"], cwd=theirs) as client:
        said = await say(client, "one")
        added = wire(await client.call_tool("add", {"a": 1}))
    for result in (said, added):
        assert len([block for block in result["content"] if "[continuation_id:" in block["text"]]) == 1
    assert sorted(turn.tool for turn in kept()) == ["add", "chat"]


# ── they are what they are ───────────────────────────────────────────────────────────────────────────────────────


def test_with_no_tool_named_the_wire_is_the_bare_servers_to_the_byte_and_stderr_says_what_to_write(
    theirs: Path,
) -> None:
    bare, bare_said = wire_of([PYTHON, "server.py"], CALLS, cwd=theirs)
    under, said = wire_of([*RUN, "server.py"], CALLS, cwd=theirs)
    assert under == bare
    assert said.count("perdure:") == 1
    assert "This server's tools: add, chat." in said
    assert "[tools.NAME]" in said
    assert bare_said in said
    assert not Path(os.environ["PERDURE_DATA_DIR"]).exists()


def test_with_tools_named_the_wire_differs_by_what_is_announced_and_nothing_else(theirs: Path) -> None:
    named("chat")
    bare, _ = wire_of([PYTHON, "server.py"], CALLS, cwd=theirs)
    under, said = wire_of([*RUN, "server.py"], CALLS, cwd=theirs)
    assert "perdure" not in said
    assert len(under) == len(bare)
    for (method, params), bare_line, line in zip(CALLS, bare, under, strict=False):
        if bare_line == line:
            assert method != "tools/list"
            assert params.get("name") != "chat"
            continue
        expected, answer = json.loads(bare_line), json.loads(line)
        if method == "tools/list":
            [chat] = [tool for tool in answer["result"]["tools"] if tool["name"] == "chat"]
            del chat["inputSchema"]["properties"]["continuation_id"]
            del chat["outputSchema"]["properties"]["continuation_id"]
        else:
            answer["result"] = without_announcement(answer["result"])
        assert answer == expected
    assert under[-1] == bare[-1] == ""


@pytest.mark.parametrize("words", [["server.py"], ["--", "./their-server"]], ids=" ".join)
def test_switched_off_it_is_exactly_the_bare_server(words: list[str], theirs: Path) -> None:
    named("chat", "add")
    for file in theirs.rglob("*"):
        if file.name in ("server.py", "their-server"):
            probe = (
                "import os, sys; sys.stderr.write(repr((os.environ.get('PYTHONPATH'), 'sitecustomize' in sys.modules)))"
            )
            head, _, rest = file.read_text().partition("import sys\n")
            file.write_text(f"{head}import sys\n{probe}\n{rest}")
    command = [word for word in words if word != "--"]
    bare = wire_of(command if words[0] == "--" else [PYTHON, *words], CALLS, cwd=theirs)
    assert wire_of([*RUN, *words], CALLS, cwd=theirs, PERDURE_ENABLED="false") == bare


def test_a_broken_settings_file_is_told_of_and_the_tools_answer(theirs: Path) -> None:
    Path(os.environ["PERDURE_CONFIG"]).write_text("[tools.chat]\nenabeld = true\n")
    bare, _ = wire_of([PYTHON, "server.py"], CALLS, cwd=theirs)
    under, said = wire_of([*RUN, "server.py"], CALLS, cwd=theirs)
    assert 'did you mean "enabled"' in said
    assert [json.loads(line).get("id") for line in under[:-1]] == [json.loads(line).get("id") for line in bare[:-1]]


# ── other processes ──────────────────────────────────────────────────────────────────────────────────────────────

STARTS = """
import multiprocessing, subprocess, sys
from pathlib import Path

MODE = sys.argv[1]

def covered():
    from mcp.server.mcpserver import MCPServer
    return any(type(each).__module__.startswith("perdure") and hasattr(each, "persisted")
               for each in MCPServer("another").middleware)

def report():
    print(multiprocessing.current_process().name.startswith("Spawn"), covered(), flush=True)

if __name__ == "__main__":
    if MODE == "program":
        print(covered())
        subprocess.run([sys.executable, __file__, "report"])
    elif MODE == "launcher":
        subprocess.run([sys.executable, __file__, "report"])
    elif MODE == "worker":
        print(covered())
        worker = multiprocessing.get_context("spawn").Process(target=report)
        worker.start()
        worker.join()
    elif MODE == "under its own run":
        print(covered())
        subprocess.run([sys.argv[2], "run", __file__, "report"])
    else:
        report()
"""


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("program", "True\nFalse False\n"),
        ("launcher", "False True\n"),
        ("worker", "True\nTrue True\n"),
        ("under its own run", "True\nFalse True\n"),
    ],
)
def test_a_servers_workers_are_covered_and_programs_that_it_starts_are_not(
    mode: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "starts.py").write_text(STARTS)
    done = ended([*RUN, "starts.py", mode, *PERDURE], cwd=tmp_path)
    assert (done.stdout, done.stderr) == (said, "")


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter without perdure; what it takes for `mcp` is a stand-in."""
    folder = tmp_path_factory.mktemp("other")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    [site] = folder.glob("lib/python*/site-packages")
    (site / "mcp.py").write_text("imported = True")
    script = folder / "bin" / "their-server"
    script.write_text(
        f"#!{python}\nimport mcp, sys\nprint(sys.stdin.read() + str(mcp.imported), file=sys.stdout)\nsys.exit(5)"
    )
    script.chmod(0o755)
    return folder / "bin"


def test_an_interpreter_without_perdure_runs_its_server_and_says_once_that_nothing_is_kept(
    other_python: Path, tmp_path: Path
) -> None:
    done = ended([*RUN, "--", other_python / "their-server"], cwd=tmp_path, stdin="asked")
    assert (done.stdout, done.code) == ("askedTrue\n", 5)
    assert done.stderr.count("perdure:") == 1
    assert f"not installed for {other_python / 'python'}" in done.stderr
    assert "-m pip install perdure" in done.stderr


def test_a_program_that_is_no_mcp_server_is_told_nothing(other_python: Path, tmp_path: Path) -> None:
    done = ended([*RUN, "--", other_python / "python", "-c", "print('no server')"], cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("no server\n", "")


def test_a_perdure_that_cannot_be_imported_keeps_no_server_from_running(theirs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "pydantic_settings.py").write_text("raise RuntimeError('of another version')")
    script = f"import sys; sys.path.insert(0, {str(broken)!r})\n{SERVER}"
    (theirs / "server.py").write_text(script)
    under, said = wire_of([*RUN, "server.py"], CALLS[:2], cwd=theirs)
    bare, _ = wire_of([PYTHON, "server.py"], CALLS[:2], cwd=theirs)
    assert under == bare
    assert said.count("perdure:") == 1
    assert "RuntimeError: of another version" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["/bin/sh", "-c", "cat; exit 6"], 6, "is no Python program"),
        (["cat"], 0, "perdure proxy -- cat"),
        ([PYTHON, "-I", "-c", "import sys; sys.stdout.write(sys.stdin.read())"], 0, "ignore PYTHONPATH"),
    ],
    ids=["shell", "binary", "isolated"],
)
def test_what_cannot_be_covered_is_run_all_the_same_and_told_of_once(
    words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = ended([*RUN, "--", *words], cwd=tmp_path, stdin="asked")
    assert (done.stdout, done.code) == ("asked", code)
    assert done.stderr.count("perdure:") == 1
    assert "Remedy:" in done.stderr
    assert said in done.stderr


def test_a_launcher_that_is_no_python_starts_a_server_that_is_covered(theirs: Path) -> None:
    named("chat")
    lines, said = wire_of([*RUN, "--", "sh", "-c", f'exec "{sys.executable}" server.py'], CALLS[:2], cwd=theirs)
    assert json.loads(lines[1])["result"]["_meta"]["perdure/persisted"] is True
    assert "Python processes that it starts are covered" in said


def test_a_command_beside_the_interpreter_is_found_without_a_path(theirs: Path) -> None:
    done = subprocess.run(
        [*RUN, "--", "uvicorn", "--version"], env={"HOME": str(theirs)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Running uvicorn")
    assert done.stderr == ""
