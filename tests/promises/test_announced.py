"""A client that looks at any one part of a result finds the continuation id there, and no schema is broken by it."""

from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from conftest import Activate
from mcp import Client
from mcp.server import Server
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool
from mcp_wire import Json, announced_id, called, listed, wire, without_announcement
from pydantic import BaseModel, ConfigDict

from perdure import install, persisted
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings


class Open(BaseModel):
    title: str


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str


class Own(BaseModel):
    title: str
    continuation_id: str = "the tool's own"


async def _chat(prompt: str) -> str:
    return prompt


async def _open(prompt: str) -> Open:
    return Open(title=prompt)


async def _closed(prompt: str) -> Closed:
    return Closed(title=prompt)


async def _counts(prompt: str) -> dict[str, int]:
    return {"length": len(prompt)}


async def _anything(prompt: str) -> dict[str, Any]:
    return {"length": len(prompt)}


async def _own(prompt: str) -> Own:
    return Own(title=prompt)


async def _blocks(prompt: str) -> list[TextContent]:
    return [TextContent(type="text", text=prompt)]


def decorated(handler: Callable[..., Any], **options: Any) -> MCPServer:
    mcp = MCPServer("announcing")
    mcp.add_tool(persisted(**options)(handler) if options else persisted(handler), name="chat")
    return mcp


def hooked(handler: Callable[..., Any]) -> MCPServer:
    mcp = MCPServer("announcing")
    mcp.add_tool(handler, name="chat")
    install(mcp, tools=["chat"])
    return mcp


def announces(result: Json) -> dict[str, bool]:
    """Where `result` carries its id. The parts that switch it off cannot tell it, so it is taken from any."""
    texts = [block["text"] for block in result["content"] if "[continuation_id: " in block.get("text", "")]
    structured = result.get("structuredContent")
    return {
        "meta": "perdure/continuation-id" in result.get("_meta", {}),
        "structured": isinstance(structured, dict) and "continuation_id" in structured,
        "text": bool(texts),
    }


# ── what is announced ────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_three_places_carry_one_and_the_same_id(runtime: Runtime) -> None:
    result = await called(decorated(_chat), "chat", {"prompt": "a"})
    identity = announced_id(result)
    assert result["structuredContent"] == {"result": "a", "continuation_id": identity}
    assert result["content"][:-1] == [{"type": "text", "text": "a"}]
    assert result["content"][-1] == {
        "type": "text",
        "text": f"[continuation_id: {identity}] Pass this continuation_id to continue the conversation.",
    }


async def test_meta_tells_conversation_turn_persistence_and_history(runtime: Runtime) -> None:
    server = decorated(_chat)
    first = (await called(server, "chat", {"prompt": "a"}))["_meta"]
    second = (await called(server, "chat", {"prompt": "b", "continuation_id": first["perdure/continuation-id"]}))[
        "_meta"
    ]
    ours = {key: value for key, value in second.items() if key.startswith("perdure/")}
    assert ours == {
        "perdure/continuation-id": first["perdure/continuation-id"],
        "perdure/turn-id": second["perdure/turn-id"],
        "perdure/persisted": True,
        "perdure/history": {"state": "loaded", "turns": 1, "omitted": 0},
    }
    assert first["perdure/history"] == {"state": "new", "turns": 0, "omitted": 0}
    assert first["perdure/turn-id"] != second["perdure/turn-id"]


async def test_an_id_that_is_announced_continues_the_conversation_wherever_it_was_read(runtime: Runtime) -> None:
    server = decorated(_chat)
    first = await called(server, "chat", {"prompt": "a"})
    from_text = first["content"][-1]["text"].split("[continuation_id: ")[1].split("]")[0]
    for identity in (from_text, first["structuredContent"]["continuation_id"], announced_id(first)):
        again = await called(server, "chat", {"prompt": "b", "continuation_id": identity})
        assert again["_meta"]["perdure/history"]["state"] == "loaded"


@pytest.mark.parametrize(
    "places", [[], ["meta"], ["structured"], ["text"], ["meta", "text"], ["meta", "structured", "text"]], ids=str
)
@pytest.mark.parametrize("make", [decorated, hooked])
async def test_each_place_can_be_switched_off_by_the_operator(
    places: list[str], make: Callable[..., MCPServer], activate: Activate
) -> None:
    activate(tools={"chat": ToolSettings(announce=places)})
    result = await called(make(_chat), "chat", {"prompt": "a"})
    assert announces(result) == {place: place in places for place in ("meta", "structured", "text")}


async def test_an_author_chooses_the_places_and_the_operator_has_the_last_word(activate: Activate) -> None:
    activate()
    assert announces(await called(decorated(_chat, announce="meta"), "chat", {"prompt": "a"})) == {
        "meta": True,
        "structured": False,
        "text": False,
    }
    activate(tools={"chat": ToolSettings(announce="text")})
    assert announces(await called(decorated(_chat, announce="meta"), "chat", {"prompt": "a"})) == {
        "meta": False,
        "structured": False,
        "text": True,
    }


async def test_a_result_of_blocks_alone_gets_no_structured_content(runtime: Runtime) -> None:
    result = await called(decorated(_blocks), "chat", {"prompt": "a"})
    assert announces(result) == {"meta": True, "structured": False, "text": True}
    assert "structuredContent" not in result


async def test_own_meta_of_a_tool_stays(runtime: Runtime) -> None:
    async def whole() -> CallToolResult:
        return CallToolResult(content=[], _meta={"own": 1})

    result = await called(decorated(whole), "chat")
    assert result["_meta"]["own"] == 1
    assert announced_id(result)


# ── output schemas ───────────────────────────────────────────────────────────────────────────────────────────────

# Handler; whether the decorator, which leaves output schemas alone, can add the id; whether the hook can, which widens.
SCHEMAS = [
    (_chat, True, True),
    (_open, True, True),
    (_closed, False, True),
    (_counts, False, True),
    (_anything, True, True),
    (_own, False, False),
]


@pytest.mark.parametrize(("handler", "decorator_can", "hook_can"), SCHEMAS)
async def test_a_client_that_validates_accepts_a_decorated_tools_structured_content(
    handler: Callable[..., Any], decorator_can: bool, hook_can: bool, runtime: Runtime
) -> None:
    server = decorated(handler)
    [entry] = await listed(server)
    result = await called(server, "chat", {"prompt": "abc"})  # the SDK's client validates, and raises
    jsonschema.validate(result["structuredContent"], entry["outputSchema"])
    assert (result["structuredContent"].get("continuation_id") == announced_id(result)) is decorator_can


@pytest.mark.parametrize(("handler", "decorator_can", "hook_can"), SCHEMAS)
async def test_the_hook_widens_the_schema_that_a_client_validates_against(
    handler: Callable[..., Any], decorator_can: bool, hook_can: bool, runtime: Runtime
) -> None:
    server = hooked(handler)
    [entry] = await listed(server)
    result = await called(server, "chat", {"prompt": "abc"})
    jsonschema.validate(result["structuredContent"], entry["outputSchema"])
    assert (result["structuredContent"].get("continuation_id") == announced_id(result)) is hook_can
    [bare_entry] = await listed(decorated(handler, enabled=False))
    if hook_can:
        added = entry["outputSchema"]["properties"].pop("continuation_id")
        assert added["type"] == "string"
    assert entry["outputSchema"] == {**bare_entry["outputSchema"], "properties": entry["outputSchema"]["properties"]}
    assert "continuation_id" not in entry["outputSchema"].get("required", [])


async def test_the_hook_leaves_output_schemas_alone_where_the_id_is_not_announced_in_them(activate: Activate) -> None:
    activate(tools={"chat": ToolSettings(announce=["meta", "text"])})
    [entry] = await listed(hooked(_closed))
    assert set(entry["outputSchema"]["properties"]) == {"title"}
    assert "continuation_id" in entry["inputSchema"]["properties"]


async def test_a_value_of_the_tools_own_under_the_same_name_is_never_replaced(runtime: Runtime) -> None:
    async def own() -> dict[str, Any]:
        return {"continuation_id": "the tool's own"}

    for make in (decorated, hooked):
        assert (await called(make(own), "chat"))["structuredContent"] == {"continuation_id": "the tool's own"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
        {"type": "object", "maxProperties": 1},
        {"type": "object", "propertyNames": {"maxLength": 2}},
        {"type": "object", "patternProperties": {"^c": {"type": "integer"}}},
        {"type": "object", "anyOf": [{"properties": {"a": {}}, "additionalProperties": False}]},
        {"anyOf": [{"type": "object", "required": ["a"], "additionalProperties": False, "properties": {"a": {}}}]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "additionalProperties": {"type": "integer"}}}},
        {"type": "object", "const": {"a": 1}},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "additionalProperties": {}},
        {"type": "object", "minProperties": 1, "required": ["a"]},
        {"type": "object", "dependentRequired": {"continuation_id": ["b"]}},
        {"type": ["object", "null"], "additionalProperties": False, "properties": {"a": {}}},
        {"properties": {"a": {"type": "integer"}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {}}, "not": {"required": ["continuation_id"]}},
        {"type": "object", "if": {"required": ["continuation_id"]}, "then": {"required": ["b"]}},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("hook", [True, False], ids=["hook", "decorator"])
async def test_no_output_schema_of_a_lowlevel_server_is_ever_broken(schema: Json, hook: bool, runtime: Runtime) -> None:
    class Counter:
        name = "chat"

        async def execute(self, arguments: dict[str, Any]) -> CallToolResult:
            return CallToolResult(content=[], structured_content={"a": 1})

    class PersistedCounter(Counter):
        @persisted
        async def execute(self, arguments: dict[str, Any]) -> CallToolResult:
            return await super().execute(arguments)

    counter = Counter() if hook else PersistedCounter()

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="chat", input_schema={"type": "object"}, output_schema=schema)])

    async def call_tool(_context: Any, params: Any) -> CallToolResult:
        return await counter.execute(params.arguments or {})

    server = Server("lowlevel", on_list_tools=list_tools, on_call_tool=call_tool)
    if hook:
        install(server, tools=["chat"])
    jsonschema.validate({"a": 1}, schema)
    async with Client(server) as client:
        entry = wire((await client.list_tools()).tools[0])
        result = wire(await client.call_tool("chat", {"prompt": "a"}))
    jsonschema.validate(result["structuredContent"], entry["outputSchema"])
    assert without_announcement(result)["structuredContent"] == {"a": 1}
