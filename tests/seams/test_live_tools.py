"""A tool that is switched off or on while its server runs: its schema follows, clients are told, no id goes astray."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.subscriptions import ToolsListChanged
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool, ToolListChangedNotification
from mcp_wire import AnyServer, Json, called, kept, listed, wire
from seams.switching import OFF, ON, echo, ways, write
from shapes import SHAPES, Shape, bare

from perdure import install, persisted, settings_watch
from perdure.middleware.persistence.wiring import runtime

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)

pytestmark = pytest.mark.usefixtures("live_settings")


def _add(server: Any, handler: Any) -> None:
    server.add_tool(handler, name="chat")


hooked, decorated, both = ways(MCPServer, _add)


class LowLevel:
    """A low-level server whose one tool notes what it is given."""

    def __init__(self, schema: Json) -> None:
        self.received: list[Any] = []
        tool = Tool(name="chat", input_schema=schema)

        async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
            return ListToolsResult(tools=[tool])

        async def call_tool(_context: Any, params: Any) -> CallToolResult:
            self.received.append(params.arguments)
            return CallToolResult(content=[TextContent(type="text", text="said")])

        self.server: Server[Any] = Server("lowlevel", on_list_tools=list_tools, on_call_tool=call_tool)


every_way = pytest.mark.parametrize("make", [hooked, decorated, both], ids=lambda make: make.__name__)


# ── schemas ──────────────────────────────────────────────────────────────────────────────────────────────────────


@every_shape
@pytest.mark.parametrize("way", ["decorated", "hooked", "both"])
async def test_switched_off_a_tool_is_listed_as_the_bare_one_is_and_switched_on_again_as_before(
    shape: Shape, way: str
) -> None:
    expected = await listed(shape.server(bare))
    server = shape.server(bare if way == "hooked" else persisted)
    if way != "decorated":
        install(server, tools=[expected[0]["name"]])
    before = await listed(server)
    write(OFF)
    assert await listed(server) == expected
    write("")
    assert await listed(server) == before


@every_shape
async def test_switched_off_a_decorated_tool_answers_as_the_bare_one_does_even_to_an_id(shape: Shape) -> None:
    [entry] = await listed(shape.server(bare))
    server = shape.server(persisted)
    await called(server, entry["name"], shape.arguments)
    write(OFF)
    arguments = shape.arguments if shape.declares_id else {**shape.arguments, "continuation_id": "from before"}
    expected = await called(shape.server(bare), entry["name"], shape.arguments)
    assert await called(server, entry["name"], arguments) == expected


async def test_a_tool_that_declares_the_id_itself_keeps_it() -> None:
    server = MCPServer("own")

    @server.tool()
    @persisted
    async def chat(text: str, continuation_id: str | None = None) -> str:
        return str(continuation_id)

    write(OFF)
    [entry] = await listed(server)
    assert "continuation_id" in entry["inputSchema"]["properties"]
    result = await called(server, "chat", {"text": "a", "continuation_id": "mine"})
    assert result["content"][0]["text"] == "mine"


async def test_a_tool_below_another_decorator_is_followed_too() -> None:
    import functools

    def logged(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        async def shell(*args: Any, **kwargs: Any) -> Any:
            return await handler(*args, **kwargs)

        return shell

    server = MCPServer("wrapped")
    server.add_tool(logged(persisted(echo)), name="chat")
    assert "continuation_id" in (await listed(server))[0]["inputSchema"]["properties"]
    write(OFF)
    assert "continuation_id" not in (await listed(server))[0]["inputSchema"]["properties"]


@every_way
async def test_calls_are_kept_while_it_is_on_and_not_while_it_is_off(make: Callable[[], AnyServer]) -> None:
    server = make()
    for number, text in enumerate(["", OFF, "", OFF, ON]):
        write(text)
        await called(server, "chat", {"text": str(number), "continuation_id": "c"})
    assert [turn.prompt for turn in kept(runtime())] == ["0", "2", "4"]


# ── ids that come too late ───────────────────────────────────────────────────────────────────────────────────────

OPEN: Json = {"type": "object"}
CLOSED: Json = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
DECLARING: Json = {
    "type": "object",
    "properties": {"continuation_id": {"type": "string"}},
    "additionalProperties": False,
}
SENT = {"a": 1, "continuation_id": "mine"}


@pytest.mark.parametrize(
    ("schema", "was_on", "received"),
    [
        (OPEN, True, {"a": 1}),
        (CLOSED, True, {"a": 1}),
        (DECLARING, True, SENT),
        (OPEN, False, SENT),  # nobody ever had it from us: it is the tool's own business
        (CLOSED, False, {"a": 1}),  # the tool would refuse it, and a client may have it from an earlier process
        (DECLARING, False, SENT),
    ],
    ids=["open", "closed", "declaring", "open, never on", "closed, never on", "declaring, never on"],
)
@pytest.mark.parametrize("list_only", [True, False], ids=["was listed", "was called"])
async def test_an_id_sent_to_a_hooked_tool_that_was_switched_off_does_not_reach_it(
    schema: Json, was_on: bool, received: Json, list_only: bool
) -> None:
    lowlevel = LowLevel(schema)
    install(lowlevel.server, tools=["chat"])
    if not was_on:
        write(OFF)
    if list_only:
        await listed(lowlevel.server)
    else:
        await called(lowlevel.server, "chat", {"a": 0})
    write(OFF)
    lowlevel.received.clear()
    await called(lowlevel.server, "chat", SENT)
    assert lowlevel.received == [received]


async def test_with_perdure_switched_off_altogether_a_tool_never_on_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PERDURE_ENABLED", "false")
    lowlevel = LowLevel(CLOSED)
    install(lowlevel.server, tools=["chat"])
    await called(lowlevel.server, "chat", SENT)
    assert lowlevel.received == [SENT]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_an_id_sent_to_a_class_based_tool_that_was_switched_off_does_not_reach_it(is_async: bool) -> None:
    received: list[Any] = []

    class Async:
        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            received.append(arguments)
            return [TextContent(type="text", text="said")]

    class Sync:
        @persisted
        def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            received.append(arguments)
            return [TextContent(type="text", text="said")]

    tool: Any = Async() if is_async else Sync()

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="execute", input_schema=OPEN)])

    async def call_tool(_context: Any, params: Any) -> CallToolResult:
        answer = tool.execute(params.arguments)
        return CallToolResult(content=await answer if is_async else answer)

    server = Server("lowlevel", on_list_tools=list_tools, on_call_tool=call_tool)
    await called(server, "execute", SENT)
    write(OFF)
    await called(server, "execute", SENT)
    assert received == [{"a": 1}, {"a": 1}]
    answer = tool.execute(dict(SENT))  # from Python, it is the method that it was
    await answer if is_async else answer
    assert received[-1] == SENT


@pytest.mark.parametrize("schema", [OPEN, CLOSED], ids=["open", "closed"])
async def test_a_hook_that_knows_nothing_of_a_class_based_tool_leaves_its_conversation_whole(schema: Json) -> None:
    received: list[Any] = []

    class Inside:
        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            received.append(arguments)
            return [TextContent(type="text", text="said")]

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="execute", input_schema=schema)])

    async def call_tool(_context: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=await Inside().execute(params.arguments))

    server = Server("lowlevel", on_list_tools=list_tools, on_call_tool=call_tool)
    install(server)
    for _ in range(2):
        result = await called(server, "execute", SENT)
    assert result["_meta"]["perdure/history"]["turns"] == 1
    assert result["_meta"]["perdure/continuation-id"] == "mine"
    assert received == [{"a": 1}, {"a": 1}]


# ── who is told ──────────────────────────────────────────────────────────────────────────────────────────────────


class Told:
    """Notices of a changed list that a client was sent."""

    def __init__(self) -> None:
        self.notices = 0

    async def __call__(self, message: Any) -> None:
        self.notices += isinstance(message, ToolListChangedNotification)


@every_way
async def test_an_open_session_is_told_once_when_a_schema_changed_and_never_else(make: Callable[[], AnyServer]) -> None:
    server = make()
    told, bystander = Told(), Told()
    async with (
        Client(server, mode="legacy", message_handler=bystander) as other,
        Client(server, mode="legacy", message_handler=told) as client,
    ):
        assert client.server_capabilities.tools.list_changed is True
        await client.list_tools()
        await client.list_prompts()
        assert (told.notices, bystander.notices) == (0, 0)
        write("[defaults]\nmax_turns = 3")  # shows nowhere in a schema
        await client.list_prompts()
        write(OFF)
        for _ in range(3):
            await client.call_tool("chat", {"text": "a"})
        await other.list_prompts()
        assert (told.notices, bystander.notices) == (1, 1)
        write(ON)
        await other.list_prompts()
        await client.list_prompts()
        assert (told.notices, bystander.notices) == (2, 2)


@every_way
async def test_a_change_that_comes_to_light_while_the_tools_are_listed_is_told_to_the_others(
    make: Callable[[], AnyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, told = make(), Told()
    looks = iter([False])  # the check before the call does not see it: the listing itself does
    async with (
        Client(server, mode="legacy") as other,
        Client(server, mode="legacy", message_handler=told) as client,
    ):
        await client.list_tools()
        has_changed = settings_watch.SettingsWatch.has_changed
        monkeypatch.setattr(
            settings_watch.SettingsWatch, "has_changed", lambda self: next(looks, True) and has_changed(self)
        )
        write(OFF)
        await other.list_tools()
        await client.list_prompts()
        await other.list_prompts()
    assert told.notices == 1


async def test_a_hooked_tools_output_schema_is_a_reason_too() -> None:
    server, told = hooked(), Told()
    async with Client(server, mode="legacy", message_handler=told) as client:
        await client.list_tools()
        write('[defaults]\nannounce = "text"')
        await client.list_prompts()
    assert told.notices == 1


async def test_a_decorated_tools_announcement_is_none_since_its_output_schema_is_its_own() -> None:
    server, told = decorated(), Told()
    async with Client(server, mode="legacy", message_handler=told) as client:
        await client.list_tools()
        write('[defaults]\nannounce = "text"')
        await client.list_prompts()
    assert told.notices == 0


@every_way
async def test_on_2026_07_28_those_who_subscribed_are_told(make: Callable[[], AnyServer]) -> None:
    server = make()
    async with Client(server, mode="2026-07-28") as client:
        await client.list_tools()
        async with client.listen(tools_list_changed=True) as subscription:
            write(OFF)
            await client.call_tool("chat", {"text": "a"})
            with anyio.fail_after(5):
                assert await anext(subscription) == ToolsListChanged()
            tools = (await client.list_tools()).tools
    assert "continuation_id" not in tools[0].input_schema["properties"]


async def test_on_2026_07_28_whoever_did_not_subscribe_is_sent_nothing() -> None:
    server, told = decorated(), Told()
    async with Client(server, mode="2026-07-28", message_handler=told) as client:
        await client.list_tools()
        write(OFF)
        await client.call_tool("chat", {"text": "a"})
    assert told.notices == 0


async def test_a_client_that_has_gone_or_does_not_read_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp.server.connection import Connection

    server = decorated()
    async with Client(server, mode="legacy") as gone:
        await gone.list_tools()
    stuck = Connection.send_tool_list_changed

    async def never(self: Connection, **options: Any) -> None:
        await anyio.sleep_forever()

    async with Client(server, mode="legacy") as client:
        await client.list_tools()
        monkeypatch.setattr(Connection, "send_tool_list_changed", never)
        write(OFF)
        with anyio.fail_after(5):
            assert wire(await client.call_tool("chat", {"text": "a"}))["content"][0]["text"] == "a"
    monkeypatch.setattr(Connection, "send_tool_list_changed", stuck)


async def test_a_server_without_a_tool_of_ours_promises_no_changes() -> None:
    server = MCPServer("plain")
    server.add_tool(echo, name="chat")
    async with Client(server, mode="legacy") as client:
        assert not client.server_capabilities.tools.list_changed


async def test_a_server_promises_no_changes_where_perdure_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_ENABLED", "false")
    for make in (hooked, decorated):
        async with Client(make(), mode="legacy") as client:
            assert not client.server_capabilities.tools.list_changed


# ── a real server ────────────────────────────────────────────────────────────────────────────────────────────────

SERVER = """
from mcp.server.mcpserver import MCPServer
from perdure import install, persisted

mcp = MCPServer("live")

@mcp.tool()
@persisted
async def decorated(text: str) -> str:
    return text

@mcp.tool()
async def named(text: str) -> str:
    return text

install(mcp)
mcp.run()
"""


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_running_server_follows_its_file(tmp_path: Path, mode: str) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    parameters = StdioServerParameters(command=sys.executable, args=[str(script)], env=dict(os.environ))
    told = Told()
    async with Client(parameters, mode=mode, message_handler=told) as client:

        async def with_id() -> set[str]:
            tools = (await client.list_tools(cache_mode="refresh")).tools
            return {tool.name for tool in tools if "continuation_id" in tool.input_schema["properties"]}

        async def until(expected: set[str]) -> None:
            with anyio.fail_after(20):
                while await with_id() != expected:
                    await anyio.sleep(0.05)

        assert await with_id() == {"decorated"}
        write("[tools.named]\nenabled = true\n[tools.decorated]\nenabled = false")
        await until({"named"})
        result = wire(await client.call_tool("named", {"text": "a"}))
        assert result["_meta"]["perdure/persisted"] is True
        write("")
        await until({"decorated"})
        result = wire(await client.call_tool("named", {"text": "a", "continuation_id": "mine"}))
        assert "perdure/persisted" not in (result.get("_meta") or {})
    assert told.notices == (2 if mode == "legacy" else 0)
