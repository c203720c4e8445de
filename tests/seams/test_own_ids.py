"""Tools that make conversation ids of their own: served under the id that the client has, also after a restart.

The server, `tests/servers/own_ids.py`, knows nothing of perdure. It forgets its threads when it ends, and refuses an id
that it does not know. Real processes, real clients, real kills; then what only code can choose, within this process.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Activate
from mcp import Client, StdioServerParameters
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool
from mcp_wire import Json, announced_id, called, kept, text_of, wire
from pydantic import Field

from perdure import install, persisted
from perdure.errors import SettingsError
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings
from perdure.settings_loader import load_settings
from perdure.testing import FaultyStore

OWN_IDS = Path(__file__).resolve().parents[1] / "servers" / "own_ids.py"

POLICY = """
[defaults]
enabled = true
strip_id = true
id_path = ["continuation_offer.continuation_id", "continuation_id"]

[tools.think]
history = "prompt"
prompt_argument = "findings"
"""

_HOOK = f"""
import asyncio, sys
sys.path.insert(0, {str(OWN_IDS.parent)!r})
import own_ids, perdure
perdure.install(own_ids.server)
asyncio.run(own_ids.main())
"""

BARE = [sys.executable, str(OWN_IDS)]

WAYS = {"hook": [sys.executable, "-c", _HOOK]}
"""How perdure comes to stand before that server."""

every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())

TOOLS: dict[str, Callable[[str], Json]] = {
    "chat": lambda text: {"prompt": text},
    "think": lambda text: {"step": "look again", "findings": text},
    "review": lambda text: {"prompt": text},
}


class Speaking:
    """A client of the server, as its process lives."""

    def __init__(self, client: Client, pid: int, seen: list[str]) -> None:
        self._client = client
        self._pid = pid
        self._seen = seen

    async def say(self, tool: str, text: str, continuation_id: str | None = None) -> Json:
        named = {} if continuation_id is None else {"continuation_id": continuation_id}
        result = wire(await self._client.call_tool(tool, TOOLS[tool](text) | named))
        self._seen.append(json.dumps(result))
        return result

    async def tools(self) -> list[Json]:
        return [wire(tool) for tool in (await self._client.list_tools()).tools]

    def kill(self) -> None:
        process = psutil.Process(self._pid)
        for one in [process, *process.children(recursive=True)]:
            one.kill()


class Installation:
    """One operator's: a policy, a data directory, and all that clients were ever answered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own_ids = folder / "own-ids"
        self.seen: list[str] = []
        config = folder / "perdure.toml"
        config.write_text(POLICY)
        self.environment = {
            **os.environ,
            "PERDURE_CONFIG": str(config),
            "PERDURE_DATA_DIR": str(folder / "data"),
            "OWN_IDS_LOG": str(self._own_ids),
        }

    @asynccontextmanager
    async def start(self, command: list[str]) -> AsyncIterator[Speaking]:
        pid_file = self._folder / "pid"
        shell = ["-c", f'echo $$ > "{pid_file}"; exec "$@"', "sh", *command]
        async with Client(StdioServerParameters(command="/bin/sh", args=shell, env=self.environment)) as client:
            yield Speaking(client, int(pid_file.read_text()), self.seen)

    @property
    def own_ids(self) -> list[str]:
        """All that the server ever made."""
        return self._own_ids.read_text().split()

    def shown(self, continuation_id: str) -> Json:
        ran = subprocess.run(
            [
                sys.executable,
                "-c",
                "from perdure.cli import main; main()",
                "conversations",
                "show",
                continuation_id,
                "--json",
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(ran.stdout)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def id_in(tool: str, result: Json) -> str:
    """What a client of the bare server takes the id to be."""
    match tool:
        case "chat":
            identity = json.loads(text_of(result))["continuation_offer"]["continuation_id"]
        case "think":
            identity = json.loads(text_of(result))["continuation_id"]
        case _:
            identity = result["structuredContent"]["continuation_id"]
            assert f"Use continuation_id: {identity} to go on." in text_of(result)
    return str(identity)


def heard(tool: str, result: Json) -> str:
    """What the tool was given as its prompt."""
    match tool:
        case "chat":
            return str(json.loads(text_of(result))["content"])
        case "think":
            return str(json.loads(text_of(result))["findings"])
        case _:
            return str(result["structuredContent"]["verdict"])


# ── across a kill ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_without_perdure_such_a_server_refuses_its_own_ids_after_a_kill(installation: Installation) -> None:
    async with installation.start(BARE) as server:
        own = {tool: id_in(tool, await server.say(tool, "the first")) for tool in TOOLS}
        for tool in TOOLS:
            assert "CONVERSATION HISTORY" in heard(tool, await server.say(tool, "the second", own[tool]))
        server.kill()
    async with installation.start(BARE) as server:
        for tool in TOOLS:
            refused = await server.say(tool, "the third", own[tool])
            assert refused["isError"]
            assert f"'{own[tool]}' was not found" in text_of(refused)


@every_way
async def test_conversations_go_on_after_a_kill_under_the_ids_that_the_client_has(
    way: list[str], installation: Installation
) -> None:
    results: dict[str, list[Json]] = {}
    async with installation.start(way) as server:
        for tool in TOOLS:
            first = await server.say(tool, "the first")
            results[tool] = [first, await server.say(tool, "the second", id_in(tool, first))]
        server.kill()
    async with installation.start(way) as server:
        for tool, [first, _] in results.items():
            results[tool].append(await server.say(tool, "the third", id_in(tool, first)))
    for tool, answers in results.items():
        assert len({id_in(tool, answer) for answer in answers} | {announced_id(answer) for answer in answers}) == 1
        assert [answer["_meta"]["perdure/history"]["turns"] for answer in answers] == [0, 1, 2]
        assert not any(answer.get("isError") for answer in answers)
        given = heard(tool, answers[-1])
        assert given.endswith("</conversation_history>\n\nthe third")
        assert given.index("the first") < given.index("the second")


@every_way
async def test_a_conversation_goes_on_from_tool_to_tool_across_kills(
    way: list[str], installation: Installation
) -> None:
    identity = None
    for number, tool in enumerate(TOOLS):
        async with installation.start(way) as server:
            result = await server.say(tool, f"number {number}", identity)
            server.kill()
        identity = identity or id_in(tool, result)
        assert id_in(tool, result) == identity
    assert "number 0" in heard(tool, result)
    assert [turn["tool"] for turn in installation.shown(str(identity))["turns"]] == list(TOOLS)


@every_way
async def test_no_id_of_the_servers_own_is_seen_recorded_or_replayed(
    way: list[str], installation: Installation
) -> None:
    identity = None
    for _ in range(2):
        async with installation.start(way) as server:
            for tool in TOOLS:
                result = await server.say(tool, "again", identity)
                identity = identity or announced_id(result)
            server.kill()
    recorded = json.dumps(installation.shown(str(identity)))
    assert len(installation.own_ids) == 6  # it never was given one that it knows
    for own in installation.own_ids:
        assert own not in "".join(installation.seen)
        assert own not in recorded
    assert recorded.count(str(identity)) > 6


@every_way
async def test_a_tool_is_given_one_transcript_and_not_its_own_besides(
    way: list[str], installation: Installation
) -> None:
    async with installation.start(way) as server:
        for tool in TOOLS:
            identity = id_in(tool, await server.say(tool, "only once"))
            await server.say(tool, "in between", identity)
            given = heard(tool, await server.say(tool, "the last", identity))
            assert "CONVERSATION HISTORY" not in given
            assert given.count("<conversation_history>") == 1
            assert given.count('"role": "user"') == 2


@every_way
async def test_a_client_may_choose_an_id_that_the_server_would_refuse(
    way: list[str], installation: Installation
) -> None:
    chosen = {tool: f'mine: "{tool}" \\ проект' for tool in TOOLS}
    for said in ("the first", "the second"):
        async with installation.start(way) as server:
            results = {tool: await server.say(tool, said, chosen[tool]) for tool in TOOLS}
            server.kill()
    assert {tool: id_in(tool, result) for tool, result in results.items()} == chosen
    assert all("the first" in heard(tool, result) for tool, result in results.items())


@every_way
async def test_of_the_answer_only_the_characters_of_the_id_change(way: list[str], installation: Installation) -> None:
    answers, entries = [], []
    for command in (BARE, way):
        async with installation.start(command) as server:
            answers.append(await server.say("chat", "hello"))
            entries.append(await server.tools())
    [own, _] = installation.own_ids
    [bare, ours] = answers
    assert text_of(ours) == text_of(bare).replace(own, announced_id(ours))
    assert entries[0] == entries[1]  # the tool declares the argument itself


@every_way
async def test_the_id_is_not_announced_again_where_the_tools_own_text_has_it(
    way: list[str], installation: Installation
) -> None:
    async with installation.start(way) as server:
        blocks = {tool: len((await server.say(tool, "hello"))["content"]) for tool in TOOLS}
        failed = await server.say("chat", "fail")
    assert blocks == {"chat": 1, "think": 1, "review": 2}  # the last has it in structured content: hosts differ
    assert failed["isError"]
    assert failed["content"] == [{"type": "text", "text": '{"status": "error", "content": "it failed"}'}]


# ── decorated tools ──────────────────────────────────────────────────────────────────────────────────────────────

OWN = "0c9a3f3e-9d3b-4d5e-8b1c-6a5f0e7d2c11"
OFFER = {"continuation_offer": {"continuation_id": OWN}}


class Given:
    """What a tool's body was given as its own id."""

    def __init__(self) -> None:
        self.ids: list[Any] = []


def _high_level(given: Given, decorate: Any) -> MCPServer:
    mcp = MCPServer("own")

    @decorate
    async def chat(prompt: str, continuation_id: str | None = Field(default=None, description="Reuse it.")) -> str:
        given.ids.append(continuation_id)
        return json.dumps({"content": prompt} | OFFER, indent=1)

    mcp.add_tool(chat, name="chat")
    return mcp


def _sync(given: Given, decorate: Any) -> MCPServer:
    mcp = MCPServer("own")

    @decorate
    def chat(prompt: str, continuation_id: str = "") -> dict[str, Any]:
        given.ids.append(continuation_id)
        return {"content": prompt} | OFFER

    mcp.add_tool(chat, name="chat")
    return mcp


def _class_based(given: Given, decorate: Any, answer: Callable[[str], Any]) -> Server[Any]:
    class Chat:
        name = "chat"

        def get_input_schema(self) -> Json:
            properties = {"prompt": {"type": "string"}, "continuation_id": {"type": "string"}}
            return {"type": "object", "properties": properties, "required": ["prompt"]}

        @decorate
        async def execute(self, arguments: Json) -> Any:
            given.ids.append(arguments.get("continuation_id"))
            return answer(arguments["prompt"])

    tool = Chat()

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="chat", input_schema=tool.get_input_schema())])

    async def call_tool(_context: Any, params: Any) -> CallToolResult:
        match await tool.execute(params.arguments):
            case CallToolResult() as result:
                return result
            case str(text):
                return CallToolResult(content=[TextContent(type="text", text=text)])
            case (list() as blocks, dict() as structured):
                return CallToolResult(content=blocks, structured_content=structured)
            case dict() as structured:
                return CallToolResult(content=[], structured_content=structured)
            case blocks:
                return CallToolResult(content=blocks)

    return Server("own", on_list_tools=list_tools, on_call_tool=call_tool)


def _block(prompt: str) -> TextContent:
    return TextContent(type="text", text=json.dumps({"content": prompt} | OFFER))


SERVERS: dict[str, Callable[[Given, Any], Any]] = {
    "high level": _high_level,
    "high level, sync": _sync,
    "blocks": lambda given, decorate: _class_based(given, decorate, lambda prompt: [_block(prompt)]),
    "text": lambda given, decorate: _class_based(given, decorate, lambda prompt: _block(prompt).text),
    "structured": lambda given, decorate: _class_based(given, decorate, lambda prompt: {"content": prompt} | OFFER),
    "blocks and structured": lambda given, decorate: _class_based(
        given, decorate, lambda prompt: ([_block(prompt)], {"content": prompt} | OFFER)
    ),
    "result": lambda given, decorate: _class_based(
        given, decorate, lambda prompt: CallToolResult(content=[_block(prompt)], structured_content=OFFER)
    ),
}

SETTINGS = {"strip_id": True, "id_path": "continuation_offer.continuation_id"}


@pytest.mark.parametrize("hooked", [False, True], ids=["decorated", "decorated and installed"])
@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS.keys())
async def test_a_decorated_tool_is_not_given_the_id_and_its_own_is_replaced(
    make: Callable[[Given, Any], Any], hooked: bool, runtime: Runtime
) -> None:
    given = Given()
    server = make(given, persisted(**SETTINGS))
    if hooked:
        install(server)
    for _ in range(2):
        result = await called(server, "chat", {"prompt": "hello", "continuation_id": "mine"})
        without_meta = json.dumps({name: value for name, value in result.items() if name != "_meta"})
        assert "mine" in without_meta
        assert OWN not in without_meta
        assert re.search(r'continuation_id\\*": \\*"mine', without_meta)
    assert given.ids in ([None, None], ["", ""])
    [first, second] = kept(runtime)
    assert (first.arguments, second.arguments) == ({"prompt": "hello"}, {"prompt": "hello"})
    assert OWN not in json.dumps([turn.answer.result for turn in (first, second) if turn.answer])


@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS.keys())
async def test_without_the_policy_the_tool_has_its_id_and_its_answer_is_its_own(
    make: Callable[[Given, Any], Any], runtime: Runtime
) -> None:
    given = Given()
    server = make(given, persisted)
    result = await called(server, "chat", {"prompt": "hello", "continuation_id": "mine"})
    assert given.ids == ["mine"]
    assert OWN in json.dumps(result)
    [turn] = kept(runtime)
    assert turn.arguments == {"prompt": "hello", "continuation_id": "mine"}
    assert OWN in json.dumps(turn.answer and turn.answer.result)


async def test_a_high_level_tool_that_is_only_named_is_served_alike(activate: Activate) -> None:
    activate(tools={"chat": ToolSettings(enabled=True, strip_id=True, id_path=("continuation_offer.continuation_id",))})
    given = Given()
    server = _high_level(given, lambda function: function)
    install(server)
    result = await called(server, "chat", {"prompt": "hello", "continuation_id": "mine"})
    assert given.ids == [None]
    text = json.dumps({"content": "hello"} | OFFER, indent=1).replace(OWN, "mine")
    assert (text_of(result), result["structuredContent"]["result"]) == (text, text)


# ── what else may come ───────────────────────────────────────────────────────────────────────────────────────────


async def test_while_the_store_is_away_the_id_that_the_client_named_stands_in_the_answer(activate: Activate) -> None:
    store = FaultyStore(MemoryStore())
    activate(store)
    server = _high_level(Given(), persisted(**SETTINGS))
    store.fail()
    result = await called(server, "chat", {"prompt": "hello", "continuation_id": "mine"})
    assert result["_meta"]["perdure/persisted"] is False
    assert json.loads(text_of(result))["continuation_offer"]["continuation_id"] == "mine"


async def test_structured_content_stays_where_its_schema_admits_no_id_of_ours(activate: Activate) -> None:
    activate(tools={"chat": ToolSettings(enabled=True, id_path=("id",))})
    schema = {"type": "object", "properties": {"id": {"type": "string", "pattern": "^[0-9a-f-]{36}$"}}}

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="chat", input_schema={"type": "object"}, output_schema=schema)])

    async def call_tool(_context: Any, _params: Any) -> CallToolResult:
        text = TextContent(type="text", text=json.dumps({"id": OWN}))
        return CallToolResult(content=[text], structured_content={"id": OWN})

    server = Server("strict", on_list_tools=list_tools, on_call_tool=call_tool)
    install(server)
    result = await called(server, "chat", {"continuation_id": "mine"})
    assert result["structuredContent"]["id"] == OWN
    assert json.loads(text_of(result)) == {"id": "mine"}


def test_the_settings_in_the_documentation_are_those_of_fourteen_tools(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "existing-ids.md").read_text()
    [block] = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "documented.toml").write_text(block)
    settings = load_settings(tmp_path / "documented.toml")
    assert len(settings.tools) == 14
    for policy in map(settings.policy, settings.tools):
        assert policy.enabled
        assert policy.strip_id
        assert policy.id_path == ("continuation_offer.continuation_id", "continuation_id")
    assert not settings.policy("version").enabled


@pytest.mark.parametrize("path", ["", ".", "a..b", ".a", "a."])
def test_a_path_with_an_empty_name_is_refused_in_words(path: str) -> None:
    with pytest.raises(SettingsError, match="id_path.*names with dots between"):
        persisted(id_path=path)
