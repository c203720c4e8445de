"""Class-based tools, `async def execute(self, arguments: dict)`, of a low-level server: decorated, installed, both."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from conftest import Activate
from mcp import Client
from mcp.server import Server
from mcp_types import CallToolResult, ImageContent, ListToolsResult, TextContent, Tool
from mcp_wire import Json, announced_id, called, kept, listed, text_of, wire, without_announcement
from pydantic import BaseModel
from shapes import Persist, bare

from perdure import Outcome, current_conversation, install, persisted
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings


class ChatTool:
    """As people write them: a name, a schema, one method that answers."""

    def __init__(self) -> None:
        self.received: list[Any] = []

    def get_name(self) -> str:
        return "chat"

    def get_input_schema(self) -> Json:
        return {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}

    async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
        """Answers."""
        self.received.append(arguments)
        if arguments["prompt"] == "fail":
            raise ValueError("the tool's own")
        return [TextContent(type="text", text=arguments["prompt"].rsplit("\n", 1)[-1].upper())]


class PersistedChatTool(ChatTool):
    @persisted
    async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
        """Answers."""
        return await super().execute(arguments)


class SyncChatTool(ChatTool):
    @persisted
    def execute(self, arguments: dict[str, Any]) -> list[TextContent]:  # type: ignore[override]
        self.received.append(arguments)
        return [TextContent(type="text", text=arguments["prompt"].rsplit("\n", 1)[-1].upper())]


def serving(tool: Any, *, installed: tuple[str, ...] | None = None, schema: Json | None = None) -> Server[Any]:
    """A low-level server with one class-based tool, and the dispatch by name that such servers have."""
    tools = {"chat": tool}

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(
            tools=[Tool(name="chat", description="Chats", input_schema=schema or ChatTool().get_input_schema())]
        )

    async def call_tool(_context: Any, params: Any) -> CallToolResult:
        try:
            answer = tools[params.name].execute(params.arguments or {})
            answer = await answer if hasattr(answer, "__await__") else answer
        except ValueError as error:
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        return answer if isinstance(answer, CallToolResult) else CallToolResult(content=answer)

    server = Server("lowlevel", on_list_tools=list_tools, on_call_tool=call_tool)
    if installed is not None:
        install(server, tools=installed)
    return server


SERVERS: dict[str, Callable[[], tuple[ChatTool, Server[Any]]]] = {
    "decorated": lambda: _with(PersistedChatTool()),
    "decorated sync": lambda: _with(SyncChatTool()),
    "decorated and installed": lambda: _with(PersistedChatTool(), installed=()),
    "decorated, installed and named": lambda: _with(PersistedChatTool(), installed=("chat",)),
    "named": lambda: _with(ChatTool(), installed=("chat",)),
}

every_server = pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS.keys())
Make = Callable[[], tuple[ChatTool, Server[Any]]]


def _with(tool: ChatTool, **options: Any) -> tuple[ChatTool, Server[Any]]:
    return tool, serving(tool, **options)


@every_server
async def test_a_call_answers_as_the_bare_tool_does_and_is_one_turn(make: Make, runtime: Runtime) -> None:
    _, server = make()
    result = await called(server, "chat", {"prompt": "hello"})
    texts = [block["text"] for block in result["content"]]
    assert texts[0] == "HELLO"
    assert len(texts) == 2  # announced once
    [turn] = kept(runtime)
    assert f"[continuation_id: {turn.continuation_id}]" in texts[1]
    assert (turn.tool, turn.prompt, turn.arguments) == ("chat", "hello", {"prompt": "hello"})
    assert turn.outcome is Outcome.ANSWERED
    assert turn.answer is not None
    assert turn.answer.text == "HELLO"


@every_server
async def test_a_conversation_goes_on_and_the_tool_is_given_its_history_but_not_the_id(
    make: Make, runtime: Runtime
) -> None:
    tool, server = make()
    for prompt in ("a", "b"):
        result = await called(server, "chat", {"prompt": prompt, "continuation_id": "mine"})
    assert text_of(result) == "B"
    assert tool.received[0] == {"prompt": "a"}
    assert set(tool.received[1]) == {"prompt"}
    assert tool.received[1]["prompt"].endswith("</conversation_history>\n\nb")
    assert [(turn.prompt, turn.continuation_id) for turn in kept(runtime)] == [("a", "mine"), ("b", "mine")]


@every_server
async def test_an_announced_id_continues_the_conversation(make: Make, runtime: Runtime) -> None:
    _, server = make()
    first = await called(server, "chat", {"prompt": "a"})
    identity = first["content"][-1]["text"].split("[continuation_id: ")[1].split("]")[0]
    await called(server, "chat", {"prompt": "b", "continuation_id": identity})
    assert [turn.place for turn in kept(runtime)] == [1, 2]


@pytest.mark.parametrize("installed", [None, ()], ids=["alone", "installed"])
async def test_a_method_that_raises_is_recorded_as_failed_and_its_server_answers_as_before(
    installed: tuple[str, ...] | None, runtime: Runtime
) -> None:
    expected = await called(serving(ChatTool()), "chat", {"prompt": "fail"})
    result = await called(serving(PersistedChatTool(), installed=installed), "chat", {"prompt": "fail"})
    assert (result["content"], result["isError"]) == (expected["content"], True)
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED
    assert turn.answer is not None
    assert turn.answer.error == {"type": "ValueError", "message": "the tool's own"}


@pytest.mark.parametrize("make", [SERVERS["decorated and installed"], SERVERS["decorated, installed and named"]])
async def test_installed_the_result_says_in_meta_what_became_of_it(make: Make, runtime: Runtime) -> None:
    _, server = make()
    result = await called(server, "chat", {"prompt": "a"})
    [turn] = kept(runtime)
    assert announced_id(result) == turn.continuation_id
    assert result["_meta"]["perdure/persisted"] is True


@pytest.mark.parametrize("make", [SERVERS["decorated, installed and named"], SERVERS["named"]], ids=["both", "named"])
async def test_named_the_tool_is_listed_with_the_id(make: Make, runtime: Runtime) -> None:
    """A model that is not told of the argument will not send it."""
    [expected] = await listed(serving(ChatTool()))
    _, server = make()
    [entry] = await listed(server)
    assert "continuation_id" in entry["inputSchema"]["properties"]
    del entry["inputSchema"]["properties"]["continuation_id"]
    assert entry == expected


@every_server
async def test_a_tool_that_is_switched_off_is_as_if_bare(make: Make, activate: Activate) -> None:
    runtime = activate(tools={"chat": ToolSettings(enabled=False)})
    tool, server = make()
    arguments = {"prompt": "a", "other": 1}
    assert await called(server, "chat", arguments) == await called(serving(ChatTool()), "chat", arguments)
    assert tool.received == [arguments]
    assert kept(runtime) == []


async def test_a_tool_that_was_never_on_receives_the_very_arguments_that_were_sent(activate: Activate) -> None:
    class NeverOn(ChatTool):
        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            return await super().execute(arguments)

    activate(tools={"chat": ToolSettings(enabled=False)})
    tool = NeverOn()
    arguments = {"prompt": "a", "continuation_id": "mine"}
    await called(serving(tool), "chat", arguments)
    assert tool.received == [arguments]


@every_server
async def test_current_conversation_is_there(make: Make, runtime: Runtime) -> None:
    tool, server = make()
    seen: list[Any] = []
    tool.received = _Noting(seen)  # type: ignore[assignment]
    await called(server, "chat", {"prompt": "a", "continuation_id": "mine"})
    assert [conversation.continuation_id for conversation in seen] == ["mine"]


class _Noting(list[Any]):
    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self._seen = seen

    def append(self, _value: Any) -> None:
        self._seen.append(current_conversation())


async def test_a_tool_whose_schema_declares_the_id_gets_it(runtime: Runtime) -> None:
    class Declaring(PersistedChatTool):
        def get_input_schema(self) -> Json:
            return {"type": "object", "properties": {"prompt": {}, "continuation_id": {"type": "string"}}}

    for installed in (None, (), ("chat",)):
        tool = Declaring()
        server = serving(tool, installed=installed, schema=tool.get_input_schema())
        await called(server, "chat", {"prompt": "a", "continuation_id": "mine"})
        assert tool.received[0]["continuation_id"] == "mine"


async def test_two_tools_of_one_class_are_told_apart_by_their_names(runtime: Runtime) -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            return [TextContent(type="text", text=self.name)]

    tools = {name: Named(name) for name in ("ask", "tell")}

    async def call_tool(_context: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=await tools[params.name].execute(params.arguments or {}))

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=name, input_schema={"type": "object"}) for name in tools])

    server = Server("two", on_list_tools=list_tools, on_call_tool=call_tool)
    async with Client(server) as client:
        for name in tools:
            assert text_of(wire(await client.call_tool(name, {"a": 1}))) == name
    assert [turn.tool for turn in kept(runtime)] == ["ask", "tell"]


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("installed", [None, (), ("chat",)], ids=["alone", "installed", "named"])
async def test_over_http_without_authentication_strangers_do_not_meet_under_a_name_they_chose(
    installed: tuple[str, ...] | None, runtime: Runtime
) -> None:
    tool = PersistedChatTool()
    server = serving(tool, installed=installed)
    for prompt in ("a secret", "a stranger's question"):
        await _posted(server, {"prompt": prompt, "continuation_id": "my-project"})
    assert tool.received == [{"prompt": "a secret"}, {"prompt": "a stranger's question"}]
    assert {turn.principal for turn in kept(runtime)} == {"anonymous"}
    assert "my-project" not in {turn.continuation_id for turn in kept(runtime)}


async def test_over_http_nobody_reaches_a_conversation_of_the_local_user(runtime: Runtime) -> None:
    tool = PersistedChatTool()
    server = serving(tool)
    await called(server, "chat", {"prompt": "a secret", "continuation_id": "my-project"})
    await _posted(server, {"prompt": "a stranger's question", "continuation_id": "my-project"})
    assert tool.received[1] == {"prompt": "a stranger's question"}


async def _posted(server: Server[Any], arguments: Json) -> None:
    """One `tools/call` over HTTP, without a session and without authentication."""
    app = server.streamable_http_app(json_response=True, stateless_http=True)
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "chat", "arguments": arguments}}
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
    transport = httpx2.ASGITransport(app=app)
    async with (
        server.session_manager.run(),
        httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        response = await client.post("/mcp", json=message, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["result"]["isError"] is False


# ── what such methods return ─────────────────────────────────────────────────────────────────────────────────────


class _Own(BaseModel):
    text: str


BLOCK = TextContent(type="text", text="said")
PICTURE = ImageContent(type="image", data="aGk=", mime_type="image/png")

# What the method returns; what a reader of the record sees.
ANSWERS: dict[str, tuple[Any, str]] = {
    "text": ("said", "said"),
    "blocks": ([BLOCK, PICTURE], "said\n\n[image image/png]"),
    "tuple of blocks": ((BLOCK, BLOCK), "said\n\nsaid"),
    "one block": (BLOCK, "said"),
    "dictionaries": ([{"type": "text", "text": "said"}], "said"),
    "structured": ({"said": 1}, '{"said": 1}'),
    "pair": (([BLOCK], {"said": 1}), "said"),
    "model": (_Own(text="said"), '{"text": "said"}'),
    "nothing": (None, ""),
    "empty": ([], ""),
    "number": (3, "3"),
}


@pytest.mark.parametrize(("answer", "text"), ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("persist", [persisted], ids=["persisted"])
async def test_what_a_method_returns_is_recorded_as_readers_see_it(
    answer: Any, text: str, persist: Persist, runtime: Runtime
) -> None:
    class Returning:
        @persist
        async def execute(self, arguments: dict[str, Any]) -> Any:
            return answer

    returned = await Returning().execute({"prompt": "a"})
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.ANSWERED
    assert turn.answer is not None
    assert turn.answer.text == text
    # The dispatcher understands only its own kinds of values: at most a block is added to a list of blocks.
    if isinstance(answer, tuple) and isinstance(answer[0], list):
        blocks, structured = returned
        assert (blocks[:-1], structured) == answer
        assert "[continuation_id: " in blocks[-1].text
    elif isinstance(answer, list) and answer and not isinstance(answer[0], dict):
        assert returned[: len(answer)] == answer
    elif answer != []:
        assert returned == answer


async def test_a_method_that_returns_a_whole_result_announces_in_it(runtime: Runtime) -> None:
    class Whole(ChatTool):
        @persisted
        async def execute(self, arguments: dict[str, Any]) -> CallToolResult:  # type: ignore[override]
            return CallToolResult(content=[BLOCK], _meta={"own": None})

    class BareWhole(ChatTool):
        async def execute(self, arguments: dict[str, Any]) -> CallToolResult:  # type: ignore[override]
            return CallToolResult(content=[BLOCK], _meta={"own": None})

    result = await called(serving(Whole()), "chat", {"prompt": "a"})
    assert without_announcement(result) == await called(serving(BareWhole()), "chat", {"prompt": "a"})
    assert result["_meta"]["perdure/persisted"] is True


async def test_an_empty_list_of_blocks_is_given_the_id_too(runtime: Runtime) -> None:
    class Silent(ChatTool):
        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            return []

    result = await called(serving(Silent()), "chat", {"prompt": "a"})
    [turn] = kept(runtime)
    assert turn.continuation_id in result["content"][0]["text"]


async def test_the_blocks_that_a_method_keeps_for_itself_are_not_added_to(runtime: Runtime) -> None:
    class Keeping(ChatTool):
        blocks = [BLOCK]  # noqa: RUF012

        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            return self.blocks

    for _ in range(2):
        assert len((await called(serving(Keeping()), "chat", {"prompt": "a"}))["content"]) == 2
    assert Keeping.blocks == [BLOCK]


async def test_the_arguments_that_a_dispatcher_passes_are_not_changed(runtime: Runtime) -> None:
    class Eager(ChatTool):
        @persisted
        async def execute(self, arguments: dict[str, Any]) -> list[TextContent]:
            arguments["prompt"] = "changed by the body"
            return [BLOCK]

    sent = {"prompt": "a", "continuation_id": "mine"}
    await Eager().execute(sent)
    assert sent == {"prompt": "a", "continuation_id": "mine"}
    [turn] = kept(runtime)
    assert turn.arguments == {"prompt": "a"}


async def test_arguments_may_be_passed_by_name(runtime: Runtime) -> None:
    tool = PersistedChatTool()
    [block, _] = await tool.execute(arguments={"prompt": "a"})
    assert isinstance(block, TextContent)
    assert block.text == "A"
    [turn] = kept(runtime)
    assert turn.prompt == "a"


def test_the_method_still_shows_what_it_is() -> None:
    assert PersistedChatTool.execute.__name__ == "execute"
    assert PersistedChatTool.execute.__doc__ == "Answers."
    assert bare(ChatTool.execute).__doc__ == "Answers."
