"""The hook stands around handlers, whenever and by whomever they are registered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Activate
from mcp import types
from mcp.server.fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import McpError
from mcp.shared.memory import create_connected_server_and_client_session as connected
from pydantic import AnyUrl, BaseModel, field_serializer

from perdure import DecoratorError, Outcome, install, persisted
from perdure.middleware.persistence.wiring import Runtime
from perdure.middleware.sdk import mcp_v1

Json = dict[str, Any]


def _register(server: Server[Any, Any], answer: Callable[[str, Json], Any], **schemas: Any) -> None:
    @server.list_tools()  # type: ignore[no-untyped-call]
    async def tools() -> list[types.Tool]:
        return [types.Tool(name="chat", inputSchema=schemas.get("takes", {"type": "object"}),
                           outputSchema=schemas.get("gives"))]  # fmt: skip

    @server.call_tool()
    async def call(name: str, arguments: Json) -> Any:
        return answer(name, arguments)


def _said(arguments: Json) -> list[types.ContentBlock]:
    return [types.TextContent(type="text", text=str(sorted(arguments)))]


def kept(runtime: Runtime) -> list[Any]:
    return [
        turn
        for line in runtime.engine.conversations()
        for turn in runtime.engine.turns(line.principal, line.continuation_id)
    ]


async def test_handlers_registered_after_install_are_persisted(runtime: Runtime) -> None:
    server: Server[Any, Any] = Server("late")
    install(server, tools=["chat"])
    _register(server, lambda _, arguments: _said(arguments))
    async with connected(server) as client:
        result = await client.call_tool("chat", {"a": 1, "continuation_id": "mine"})
        [entry] = (await client.list_tools()).tools
    assert result.content[0].text == "['a']"  # type: ignore[union-attr]
    assert result.meta is not None
    assert result.meta["perdure/continuation-id"] == "mine"
    assert "continuation_id" in entry.inputSchema["properties"]


async def test_a_handler_that_others_wrap_by_the_dictionary_is_persisted_once(runtime: Runtime) -> None:
    """As instrumentation does it: it reads the handler and puts its own in its place."""
    server: Server[Any, Any] = Server("instrumented")
    _register(server, lambda _, arguments: _said(arguments))
    install(server, tools=["chat"])
    inner, seen = server.request_handlers[types.CallToolRequest], []

    async def traced(request: Any) -> Any:
        seen.append(request.params.name)
        return await inner(request)

    server.request_handlers[types.CallToolRequest] = traced
    async with connected(server) as client:
        result = await client.call_tool("chat", {"a": 1})
    assert seen == ["chat"]
    assert len(kept(runtime)) == 1
    assert len([block for block in result.content if "continuation_id:" in block.text]) == 1  # type: ignore[union-attr]


async def test_the_server_itself_validates_against_the_schemas_it_wrote(runtime: Runtime) -> None:
    server: Server[Any, Any] = Server("strict")
    closed = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    _register(server, lambda _, arguments: arguments, takes=closed, gives=closed)
    install(server, tools=["chat"])
    async with connected(server) as client:
        result = await client.call_tool("chat", {"a": 1, "continuation_id": "mine"})
        refused = await client.call_tool("chat", {"b": 1, "continuation_id": "mine"})
    assert result.structuredContent == {"a": 1, "continuation_id": "mine"}
    assert refused.isError
    assert "Input validation error" in refused.content[0].text  # type: ignore[union-attr]
    assert [turn.outcome.value for turn in kept(runtime)] == ["answered", "failed"]


async def test_a_task_that_is_still_to_run_passes_as_it_is(runtime: Runtime) -> None:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    task = types.Task(taskId="t", status="working", createdAt=now, lastUpdatedAt=now, ttl=60_000)
    server: Server[Any, Any] = Server("tasks")
    _register(server, lambda *_: types.CreateTaskResult(task=task))
    install(server, tools=["chat"])
    request = types.CallToolRequest(params=types.CallToolRequestParams(name="chat", arguments={}))
    async with connected(server) as client:
        result = await client.send_request(types.ClientRequest(request), types.CreateTaskResult)
    assert result.task.taskId == "t"
    assert result.meta is None
    [turn] = kept(runtime)
    assert turn.answer.error["type"] == "not_final"


async def test_a_handler_called_outside_of_any_request_is_the_servers_own(runtime: Runtime) -> None:
    server: Server[Any, Any] = Server("direct")
    _register(server, lambda _, arguments: _said(arguments))
    install(server, tools=["chat"])
    request = types.CallToolRequest(params=types.CallToolRequestParams(name="chat", arguments={"a": 1}))
    result = await server.request_handlers[types.CallToolRequest](request)
    assert result.root.content[0].text == "['a']"  # type: ignore[union-attr]
    assert kept(runtime) == []


async def test_a_server_without_resources_still_refuses_those_it_does_not_have(runtime: Runtime) -> None:
    server: Server[Any, Any] = Server("plain")
    _register(server, lambda _, arguments: _said(arguments))
    install(server, tools=["chat"])
    async with connected(server) as client:
        with pytest.raises(McpError, match="Method not found"):
            await client.read_resource("memo://x")  # type: ignore[arg-type]
    assert types.ListResourcesRequest not in server.request_handlers


async def test_installing_on_a_fastmcp_and_on_the_server_within_it_is_installing_once(runtime: Runtime) -> None:
    mcp = FastMCP("twice")

    @mcp.tool()
    async def chat(prompt: str) -> str:
        return prompt

    install(mcp, tools=["chat"])
    install(mcp._mcp_server)
    async with connected(mcp) as client:
        result = await client.call_tool("chat", {"prompt": "a"})
    assert len([block for block in result.content if "continuation_id:" in block.text]) == 1  # type: ignore[union-attr]
    assert len(kept(runtime)) == 1


def test_the_handler_of_all_tools_cannot_be_decorated_and_the_message_says_what_to_do() -> None:
    server: Server[Any, Any] = Server("dispatching")
    with pytest.raises(DecoratorError, match=r"handler of all its tools.*perdure\.install"):

        @server.call_tool()
        @persisted
        async def call(name: str, arguments: Json) -> Any:
            return []


async def test_an_sdk_that_serves_requests_elsewhere_answers_all_the_same_and_the_log_says_so(
    runtime: Runtime, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    mcp = FastMCP("moved")

    @mcp.tool()
    @persisted
    async def chat(prompt: str) -> str:
        return prompt

    monkeypatch.setattr(mcp_v1, "_served", type("Nothing", (), {
        "get": staticmethod(lambda: None), "set": staticmethod(lambda _: None), "reset": staticmethod(lambda _: None),
    }))  # fmt: skip
    async with connected(mcp) as client:
        result = await client.call_tool("chat", {"prompt": "a"})
    assert result.content[0].text == "a"  # type: ignore[union-attr]
    assert kept(runtime) == []
    assert "this version of mcp" in caplog.text


# ── what class-based tools give ──────────────────────────────────────────────────────────────────────────────────


VALUES = {
    "blocks": _said({}),
    "blocks and structured content": (_said({}), {"n": 1}),
    "structured content": {"n": 1},
    "a result": types.CallToolResult(content=_said({}), structuredContent={"n": 1}),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("seam", ["decorator", "hook"])
async def test_whatever_a_class_based_tool_gives_is_kept_and_announced_where_it_can_be(
    value: Any, seam: str, activate: Activate
) -> None:
    runtime = activate()

    class Chat:
        name = "chat"

        async def execute(self, arguments: Json) -> Any:
            return value

    class PersistedChat(Chat):
        @persisted
        async def execute(self, arguments: Json) -> Any:
            return value

    tool = PersistedChat() if seam == "decorator" else Chat()
    server: Server[Any, Any] = Server("classes")

    @server.list_tools()  # type: ignore[no-untyped-call]
    async def tools() -> list[types.Tool]:
        return [types.Tool(name="chat", inputSchema={"type": "object"})]

    @server.call_tool()
    async def call(name: str, arguments: Json) -> Any:
        return await tool.execute(arguments)

    if seam == "hook":
        install(server, tools=["chat"])
    async with connected(server) as client:
        result = await client.call_tool("chat", {"prompt": "a", "continuation_id": "mine"})
    [turn] = kept(runtime)
    assert (turn.continuation_id, turn.arguments) == ("mine", {"prompt": "a"})
    announced = any("[continuation_id: mine]" in block.text for block in result.content)  # type: ignore[union-attr]
    assert announced is not (seam == "decorator" and isinstance(value, dict))
    own = {name: item for name, item in (result.structuredContent or {}).items() if name != "continuation_id"}
    assert own == ({} if isinstance(value, list) else {"n": 1})


# ── what the low-level server refuses ────────────────────────────────────────────────────────────────────────────


class Misprinted(BaseModel):
    pages: int

    @field_serializer("pages")
    def _in_words(self, pages: int) -> str:
        return f"{pages} pages"


@pytest.mark.parametrize("seam", ["decorator", "hook"])
async def test_structured_content_that_its_own_schema_refuses_is_refused_as_without_perdure(
    seam: str, runtime: Runtime
) -> None:
    def made() -> Any:
        async def report() -> Misprinted:
            return Misprinted(pages=3)

        return report

    bare, mcp = FastMCP("bare"), FastMCP("misprinting")
    bare.add_tool(made())
    mcp.add_tool(persisted(made()) if seam == "decorator" else made())
    if seam == "hook":
        install(mcp, tools=["report"])
    async with connected(bare) as client:
        expected = await client.call_tool("report", {})
    async with connected(mcp) as client:
        result = await client.call_tool("report", {})
    assert expected.isError
    assert (result.isError, result.content) == (True, expected.content)
    [turn] = kept(runtime)
    assert turn.outcome is Outcome.FAILED


async def test_a_kept_file_of_any_name_is_read_by_its_uri(runtime: Runtime, tmp_path: Path) -> None:
    (path := tmp_path / "Über uns, 50 %.txt").write_text("hello")
    mcp = FastMCP("files")

    @mcp.tool()
    async def give() -> str:
        return str(path)

    install(mcp, tools=["give"])
    async with connected(mcp) as client:
        uri = (await client.call_tool("give", {})).content[0].text  # type: ignore[union-attr]
        [content] = (await client.read_resource(AnyUrl(uri))).contents
    assert content.text == "hello"  # type: ignore[union-attr]
    assert str(content.uri) == uri
