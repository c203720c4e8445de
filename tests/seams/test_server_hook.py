"""`install(server)`: tools are persisted whose code knows nothing of perdure."""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from conftest import Activate
from mcp import Client
from mcp.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, InputRequiredResult, ListToolsResult, TextContent, Tool
from mcp_wire import Json, announced_id, called, kept, listed, text_of, wire, without_announcement
from shapes import SHAPES, Shape, bare

from perdure import Outcome, install, persisted
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import Runtime, activated, build
from perdure.middleware.request_state import own_state
from perdure.middleware.tool_schema import continuation_id_schema
from perdure.settings import Settings, ToolSettings

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)


def _server(**tools: Callable[..., Any]) -> MCPServer:
    mcp = MCPServer("hooked")
    for name, handler in (tools or {"chat": _chat}).items():
        mcp.add_tool(handler, name=name)
    return mcp


async def _chat(text: str, ctx: Context) -> str:
    """Chats."""
    if text == "fail":
        raise RuntimeError("internal")
    if text == "pay":
        raise MCPError(code=-32042, message="pay first")
    return f"{text} {sorted(ctx.request_context.params['arguments'])}"  # type: ignore[index]


class LowLevel:
    """A low-level server that notes what its handler is given."""

    def __init__(self, *tools: Tool, pages: int = 1) -> None:
        self.tools = list(tools) or [Tool(name="chat", input_schema={"type": "object"})]
        self.received: list[Any] = []
        self.pages = pages
        self.server: Server[Any] = Server("lowlevel", on_list_tools=self._list, on_call_tool=self._call)

    async def _list(self, _context: Any, params: Any) -> ListToolsResult:
        page = int((params and params.cursor) or 0)
        following = str(page + 1) if page + 1 < self.pages else None
        return ListToolsResult(tools=self.tools[page :: self.pages], next_cursor=following)

    async def _call(self, _context: Any, params: Any) -> CallToolResult:
        self.received.append(params.arguments)
        return CallToolResult(content=[TextContent(type="text", text="said")], structured_content={"said": 1})


# ── every shape of handler, untouched ────────────────────────────────────────────────────────────────────────────


@every_shape
async def test_a_named_tool_answers_what_it_answers_without_the_hook(shape: Shape, runtime: Runtime) -> None:
    [entry] = await listed(shape.server(bare))
    expected = await called(shape.server(bare), entry["name"], shape.arguments)
    server = shape.server(bare)
    install(server, tools=[entry["name"]])
    result = await called(server, entry["name"], shape.arguments)
    assert json.dumps(without_announcement(result), sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert result["_meta"]["perdure/persisted"] is True
    assert len(kept(runtime)) == 1


@every_shape
async def test_a_named_tool_is_listed_with_the_id_and_otherwise_as_it_is(shape: Shape, runtime: Runtime) -> None:
    [expected] = await listed(shape.server(bare))
    server = shape.server(bare)
    install(server, tools=[expected["name"]])
    [entry] = await listed(server)
    if not shape.declares_id:
        assert entry["inputSchema"]["properties"].pop("continuation_id") == continuation_id_schema()
    if "continuation_id" not in expected.get("outputSchema", {}).get("properties", {}):
        widened = entry.get("outputSchema", {}).get("properties", {})
        widened.pop("continuation_id", None)
        if not widened and "outputSchema" in expected and "properties" not in expected["outputSchema"]:
            del entry["outputSchema"]["properties"]
    assert entry == expected


@every_shape
async def test_decorated_and_named_at_once_a_call_is_one_turn_and_announced_once(
    shape: Shape, runtime: Runtime
) -> None:
    [entry] = await listed(shape.server(bare))
    expected = await called(shape.server(bare), entry["name"], shape.arguments)
    server = shape.server(persisted)
    install(server, tools=[entry["name"]])
    result = await called(server, entry["name"], shape.arguments)
    assert json.dumps(without_announcement(result), sort_keys=True) == json.dumps(expected, sort_keys=True)
    [turn] = kept(runtime)
    assert turn.id == result["_meta"]["perdure/turn-id"]


@every_shape
async def test_tools_that_nobody_named_pass_untouched(shape: Shape, runtime: Runtime) -> None:
    [expected_entry] = await listed(shape.server(bare))
    expected = await called(shape.server(bare), expected_entry["name"], shape.arguments)
    server = shape.server(bare)
    install(server)
    assert await listed(server) == [expected_entry]
    assert await called(server, expected_entry["name"], shape.arguments) == expected
    assert kept(runtime) == []


# ── which tools ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_only_the_tools_that_are_named_are_persisted(runtime: Runtime) -> None:
    server = _server(chat=_chat, other=_chat)
    install(server, tools=["chat"])
    for name in ("chat", "other"):
        await called(server, name, {"text": "a"})
    assert [turn.tool for turn in kept(runtime)] == ["chat"]
    entries = {entry["name"]: entry["inputSchema"]["properties"] for entry in await listed(server)}
    assert ("continuation_id" in entries["chat"], "continuation_id" in entries["other"]) == (True, False)


@pytest.mark.parametrize(
    ("settings", "persisted_tools"),
    [
        ({"tools": {"chat": ToolSettings(enabled=True)}}, ["chat"]),
        ({"tools": {"ch*": ToolSettings(enabled=True)}}, ["chat"]),
        ({"defaults": ToolSettings(enabled=True)}, ["chat", "other"]),
        ({"defaults": ToolSettings(enabled=True), "tools": {"other": ToolSettings(enabled=False)}}, ["chat"]),
        ({"enabled": False, "defaults": ToolSettings(enabled=True)}, []),
        ({}, []),
    ],
    ids=str,
)
async def test_the_operator_names_tools_in_the_settings(
    settings: dict[str, Any], persisted_tools: list[str], activate: Activate
) -> None:
    runtime = activate(**settings)
    server = _server(chat=_chat, other=_chat)
    install(server)
    for name in ("chat", "other"):
        await called(server, name, {"text": "a"})
    assert sorted(turn.tool for turn in kept(runtime)) == persisted_tools


async def test_a_tool_that_settings_only_adjust_is_not_switched_on_by_that(activate: Activate) -> None:
    runtime = activate(tools={"chat": ToolSettings(max_turns=3)})
    server = _server()
    install(server)
    await called(server, "chat", {"text": "a"})
    assert kept(runtime) == []


async def test_the_operator_can_switch_off_what_the_code_names(activate: Activate) -> None:
    runtime = activate(tools={"chat": ToolSettings(enabled=False)})
    server = _server()
    install(server, tools=["chat"])
    assert await called(server, "chat", {"text": "a"}) == await called(_server(), "chat", {"text": "a"})
    assert await listed(server) == await listed(_server())
    assert kept(runtime) == []


@pytest.mark.parametrize("late", ["tool", "install"])
async def test_tools_registered_after_install_are_persisted_too(late: str, runtime: Runtime) -> None:
    server = MCPServer("late")
    if late == "tool":
        install(server, tools=["chat"])
        assert await listed(server) == []
    server.add_tool(_chat, name="chat")
    if late == "install":
        assert "continuation_id" not in (await listed(server))[0]["inputSchema"]["properties"]
        install(server, tools=["chat"])
    assert "continuation_id" in (await listed(server))[0]["inputSchema"]["properties"]
    await called(server, "chat", {"text": "a"})
    assert len(kept(runtime)) == 1


async def test_installing_again_adds_names_and_nothing_else(runtime: Runtime) -> None:
    server = _server(chat=_chat, other=_chat)
    install(server, tools=["chat"])
    before = len(server.middleware)
    install(server, tools=["other"])
    install(server)
    install(server._lowlevel_server)
    assert len(server.middleware) == before
    for name in ("chat", "other"):
        result = await called(server, name, {"text": "a"})
        assert len([block for block in result["content"] if "continuation_id:" in block["text"]]) == 1
    assert sorted(turn.tool for turn in kept(runtime)) == ["chat", "other"]


@pytest.mark.parametrize("thing", [None, "server", object(), _chat, MCPServer], ids=lambda thing: type(thing).__name__)
def test_what_is_no_server_is_refused_in_words(thing: Any) -> None:
    with pytest.raises(TypeError, match="MCPServer or a low-level Server"):
        install(thing)


def test_one_name_in_the_place_of_a_list_is_not_taken_apart_into_letters() -> None:
    server = _server()
    try:
        install(server, tools="chat")
    except TypeError as error:
        assert "tools" in str(error)  # noqa: PT017 - either is fine, silence is not
    else:
        [hook] = [middleware for middleware in server.middleware if hasattr(middleware, "persisted")]
        assert set(hook.persisted.named) == {"chat"}


async def test_an_operator_who_has_named_no_tool_is_told_once_which_there_are(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    server = _server(chat=_chat, other=_chat)
    install(server)
    with caplog.at_level(logging.WARNING, logger="perdure"):
        await listed(server)
        await listed(server)
    [record] = [record for record in caplog.records if record.name == "perdure"]
    assert "chat, other" in record.getMessage()
    assert "[tools.NAME]" in record.getMessage()


async def test_an_operator_who_has_named_a_tool_is_told_nothing(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    server = _server(chat=_chat, other=_chat)
    install(server, tools=["chat"])
    await listed(server)
    assert [record for record in caplog.records if record.name == "perdure"] == []


# ── what the tool sees ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tool_sees_nothing_of_the_id_not_even_in_its_request(runtime: Runtime) -> None:
    server = _server()
    install(server, tools=["chat"])
    result = await called(server, "chat", {"text": "a", "continuation_id": "mine"})
    assert text_of(result) == "a ['text']"
    assert announced_id(result) == "mine"


DECLARING = {"type": "object", "properties": {"continuation_id": {"type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "received"),
    [
        ({"type": "object"}, {"a": 1}),
        ({"type": "object", "additionalProperties": False, "properties": {"a": {}}}, {"a": 1}),
        (DECLARING, {"a": 1, "continuation_id": "mine"}),
    ],
    ids=["open", "closed", "declaring"],
)
@pytest.mark.parametrize("list_first", [True, False], ids=["listed", "not listed"])
async def test_a_lowlevel_tool_gets_the_id_if_its_schema_declares_it_whether_or_not_it_was_listed(
    schema: Json, received: Json, list_first: bool, runtime: Runtime
) -> None:
    lowlevel = LowLevel(Tool(name="chat", input_schema=schema))
    install(lowlevel.server, tools=["chat"])
    async with Client(lowlevel.server) as client:
        if list_first:
            await client.list_tools()
        result = wire(await client.call_tool("chat", {"a": 1, "continuation_id": "mine"}))
    assert lowlevel.received == [received]
    assert announced_id(result) == "mine"


async def test_a_tool_on_a_later_page_of_the_list_is_known_too(runtime: Runtime) -> None:
    tools = [Tool(name=f"tool{number}", input_schema={"type": "object"}) for number in range(5)]
    lowlevel = LowLevel(*tools, Tool(name="chat", input_schema=DECLARING), pages=3)
    install(lowlevel.server, tools=["chat"])
    async with Client(lowlevel.server) as client:
        await client.session.call_tool("chat", {"continuation_id": "mine"})
        assert lowlevel.received == [{"continuation_id": "mine"}]
        page = await client.list_tools(cursor="2")
    assert [tool.name for tool in page.tools] == ["tool2", "chat"]


async def test_a_schema_that_changes_is_seen(runtime: Runtime) -> None:
    lowlevel = LowLevel(Tool(name="chat", input_schema={"type": "object"}))
    install(lowlevel.server, tools=["chat"])
    arguments = {"continuation_id": "mine"}
    await called(lowlevel.server, "chat", arguments)
    lowlevel.tools = [Tool(name="chat", input_schema=DECLARING)]
    await listed(lowlevel.server)
    await called(lowlevel.server, "chat", arguments)
    assert lowlevel.received == [{}, arguments]


async def test_a_call_without_arguments_stays_one(runtime: Runtime) -> None:
    lowlevel = LowLevel()
    install(lowlevel.server, tools=["chat"])
    await called(lowlevel.server, "chat", None)
    assert lowlevel.received == [None]


async def test_meta_of_the_request_reaches_the_tool(runtime: Runtime) -> None:
    seen: list[Any] = []

    async def look(text: str, ctx: Context) -> str:
        seen.append(dict(ctx.request_context.meta or {}))
        return text

    server = _server(chat=look)
    install(server, tools=["chat"])
    await called(server, "chat", {"text": "a"}, meta={"own/key": 1})
    assert seen[0]["own/key"] == 1


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_error_result_gains_only_meta(runtime: Runtime) -> None:
    server = _server()
    install(server, tools=["chat"])
    result = await called(server, "chat", {"text": "fail"})
    expected = await called(_server(), "chat", {"text": "fail"})
    assert result["content"] == expected["content"]
    assert without_announcement(result) == expected
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED


async def test_a_protocol_error_stays_one(runtime: Runtime) -> None:
    server = _server()
    install(server, tools=["chat"])
    async with Client(server) as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("chat", {"text": "pay"})
    assert (raised.value.error.code, raised.value.error.message) == (-32042, "pay first")
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED


@pytest.mark.parametrize("arguments", [{}, {"text": 3}, {"text": []}], ids=str)
async def test_arguments_that_do_not_fit_are_refused_in_the_same_words(
    arguments: dict[str, Any], runtime: Runtime
) -> None:
    server = _server()
    install(server, tools=["chat"])
    assert without_announcement(await called(server, "chat", arguments)) == await called(_server(), "chat", arguments)


async def test_a_tool_that_does_not_exist_is_unknown_as_before(runtime: Runtime) -> None:
    server = _server()
    install(server, tools=["nothing"])
    assert await called(server, "nothing", {}) == await called(_server(), "nothing", {})
    assert kept(runtime) == []


async def test_a_server_whose_list_of_tools_fails_still_answers_calls(runtime: Runtime) -> None:
    lowlevel = LowLevel()

    async def broken(_context: Any, _params: Any) -> ListToolsResult:
        raise RuntimeError("no list today")

    async def call(_context: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="said")])

    def make() -> Server[Any]:
        return Server("broken", on_list_tools=broken, on_call_tool=call)

    server = make()
    install(server, tools=["chat"])

    async def answer(server: Server[Any]) -> str:
        async with Client(server, mode="legacy") as client:
            sent = {"name": "chat", "arguments": {"a": 1}}
            result = await client.session._dispatcher.send_raw_request("tools/call", sent)
        return str(result["content"][0]["text"])

    assert await answer(make()) == "said"
    assert await answer(server) == "said"
    assert lowlevel.received == []


async def test_a_server_without_a_list_of_tools_still_answers_calls(runtime: Runtime) -> None:
    async def call(_context: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="said")])

    server = Server("listless", on_call_tool=call)
    install(server, tools=["chat"])
    async with Client(server, mode="legacy") as client:
        sent = {"name": "chat", "arguments": {"a": 1}}
        result = await client.session._dispatcher.send_raw_request("tools/call", sent)
    assert result["content"][0]["text"] == "said"
    assert len(kept(runtime)) == 1


async def test_a_question_to_the_client_passes_as_it_is_but_for_the_envelope_around_its_state(runtime: Runtime) -> None:
    from mcp_types import ElicitRequest, ElicitRequestFormParams

    question = InputRequiredResult(
        input_requests={
            "sure": ElicitRequest(
                params=ElicitRequestFormParams(message="Sure?", requested_schema={"type": "object", "properties": {}})
            )
        },
        request_state="state",
    )

    def make() -> Server[Any]:
        async def call(_context: Any, params: Any) -> Any:
            if not params.input_responses:
                return question
            return CallToolResult(content=[TextContent(type="text", text=f"sure {params.request_state}")])

        async def tools(_context: Any, _params: Any) -> ListToolsResult:
            return ListToolsResult(tools=[Tool(name="chat", input_schema={"type": "object"})])

        return Server("asking", on_call_tool=call, on_list_tools=tools)

    server = make()
    install(server, tools=["chat"])
    async with Client(server) as client, Client(make()) as bare_client:
        asked = await client.session.call_tool("chat", {"a": 1}, allow_input_required=True)
        expected = await bare_client.session.call_tool("chat", {"a": 1}, allow_input_required=True)
    received = wire(asked)
    assert own_state(received["requestState"]) == "state"
    assert {**received, "requestState": "state"} == wire(expected)


# ── beside other things ──────────────────────────────────────────────────────────────────────────────────────────


async def test_other_requests_pass_untouched(runtime: Runtime) -> None:
    server = _server()

    @server.resource("note://a")
    def note() -> str:
        return "noted"

    @server.prompt()
    def greet() -> str:
        return "hello"

    install(server, tools=["chat"])
    async with Client(server) as client:
        assert (await client.read_resource("note://a")).contents[0].text == "noted"  # type: ignore[union-attr]
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["greet"]
    assert kept(runtime) == []


async def test_calls_at_the_same_time_do_not_mix(runtime: Runtime) -> None:
    inside, both = 0, asyncio.Event()

    async def wait(text: str) -> str:
        nonlocal inside
        inside += 1
        if inside == 20:
            both.set()
        await asyncio.wait_for(both.wait(), 5)
        return text.upper()

    server = _server(chat=wait)
    install(server, tools=["chat"])
    async with Client(server) as client:
        results = await asyncio.gather(
            *(client.call_tool("chat", {"text": f"t{number}", "continuation_id": f"c{number}"}) for number in range(20))
        )
    for number, result in enumerate(map(wire, results)):
        assert (text_of(result), announced_id(result)) == (f"T{number}", f"c{number}")
    assert {(turn.prompt, turn.continuation_id) for turn in kept(runtime)} == {
        (f"t{number}", f"c{number}") for number in range(20)
    }


async def test_a_tool_that_another_tool_calls_is_part_of_its_turn(runtime: Runtime) -> None:
    mcp = MCPServer("nested")

    @mcp.tool()
    @persisted
    async def inner(text: str, ctx: Context) -> str:
        return text.upper()

    @mcp.tool()
    async def outer(text: str, ctx: Context) -> str:
        return await inner(text, ctx=ctx)

    install(mcp, tools=["outer"])
    assert text_of(await called(mcp, "outer", {"text": "a"})) == "A"
    assert [turn.tool for turn in kept(runtime)] == ["outer"]


async def test_a_server_that_is_a_client_of_another_records_each_its_own_turn(runtime: Runtime) -> None:
    behind = _server()
    install(behind, tools=["chat"])
    front = MCPServer("front")

    @front.tool()
    async def relay(text: str) -> str:
        return text_of(await called(behind, "chat", {"text": text}))

    install(front, tools=["relay"])
    assert text_of(await called(front, "relay", {"text": "a"})) == "a ['text']"
    turns = kept(runtime)
    assert sorted(turn.tool for turn in turns) == ["chat", "relay"]
    assert len({turn.continuation_id for turn in turns}) == 2


async def test_a_decorated_server_behind_a_persisted_tool_records_its_own_turn(runtime: Runtime) -> None:
    class Echo:
        name = "echo"

        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            return [TextContent(type="text", text=arguments["text"])]

    echo = Echo()

    async def tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="echo", input_schema={"type": "object"})])

    async def call(_context: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=await echo.execute(params.arguments))

    behind = Server("behind", on_list_tools=tools, on_call_tool=call)
    front = MCPServer("front")

    @front.tool()
    @persisted
    async def relay(text: str) -> str:
        return text_of(await called(behind, "echo", {"text": text}))

    await called(front, "relay", {"text": "a"})
    assert sorted(turn.tool for turn in kept(runtime)) == ["echo", "relay"]


# ── what perdure itself cannot do ────────────────────────────────────────────────────────────────────────────────


class NoClock:
    def now(self) -> datetime:
        raise RuntimeError("no time today")


async def test_a_call_that_perdure_cannot_even_read_is_answered_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    server = _server()
    install(server, tools=["chat"])
    with activated(build(Settings(), store=MemoryStore(), clock=NoClock())):
        assert await called(server, "chat", {"text": "a"}) == await called(_server(), "chat", {"text": "a"})
    assert "call.not_understood" in caplog.text


async def test_an_entry_that_perdure_cannot_read_is_listed_as_it_is(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    odd = {"name": "odd", "inputSchema": {"type": "object", "properties": "of any kind"}}

    async def gives_odd_entries(ctx: Any, call_next: Callable[..., Any]) -> Any:
        return {"tools": [odd]} if ctx.method == "tools/list" else await call_next(ctx)

    server = _server()
    install(server, tools=["odd"])
    server.middleware.append(gives_odd_entries)  # within ours
    async with Client(server, mode="legacy") as client:
        result = await client.session._dispatcher.send_raw_request("tools/list", {})
    assert result["tools"] == [odd]
    assert "tool.not_amended" in caplog.text
