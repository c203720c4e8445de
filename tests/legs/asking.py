"""A tool that asks its client twice before it answers, behind every way in which a server can have tools."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcp import Client
from mcp.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp_types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    ListToolsResult,
    TextContent,
    Tool,
)
from mcp_wire import AnyServer, Json, wire

from perdure import current_conversation, install, persisted

__all__ = ["ASKING", "Booking", "Make", "answer", "book_with", "leg"]

SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}


@dataclass
class Booking:
    """The tool's body, and what it was given on each leg."""

    states: list[str | None] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    histories: list[list[str]] = field(default_factory=list)
    turn_ids: list[str] = field(default_factory=list)
    questions: int = 2
    stateless: bool = False
    """Asks without a state of its own."""

    def __call__(self, prompt: str, state: str | None, answers: Any) -> InputRequiredResult | str:
        self.states.append(state)
        self.prompts.append(prompt)
        if conversation := current_conversation():
            self.histories.append([turn.prompt for turn in conversation.history])
            self.turn_ids.append(conversation.turn_id)
        given = next(iter(answers.values())).content["text"] if answers else None
        if given == "refuse":
            raise ValueError("refused")
        asked = len(state or "") if not self.stateless else (1 if answers else 0)
        if asked < self.questions and not prompt.rpartition("\n")[2].startswith("plain"):
            question = ElicitRequestFormParams(
                message=f"question {asked + 1}?",
                requested_schema={"type": "object", "properties": {"text": {"type": "string"}}},
            )
            return InputRequiredResult(
                input_requests={"q": ElicitRequest(params=question)},
                request_state=None if self.stateless else "s" * (asked + 1),
            )
        return f"booked {prompt.rpartition(chr(10))[2]} {given}"


Make = Callable[[Booking], AnyServer]


def _mcpserver(persist: Callable[[Any], Any], **installed: Any) -> Make:
    def make(booking: Booking) -> MCPServer:
        mcp = MCPServer("asking", request_state_security=RequestStateSecurity(keys=["k" * 32]))

        @mcp.tool()
        @persist
        async def book(prompt: str, ctx: Context) -> str | InputRequiredResult:
            return booking(prompt, ctx.request_state, ctx.input_responses)

        if installed:
            install(mcp, **installed)
        return mcp

    return make


def _result(value: Any) -> Any:
    return CallToolResult(content=[TextContent(type="text", text=value)]) if isinstance(value, str) else value


async def _tools(_context: Any, _params: Any) -> ListToolsResult:
    return ListToolsResult(tools=[Tool(name="book", input_schema=SCHEMA)])


def _lowlevel(*, seal: str | None = None, **installed: Any) -> Make:
    def make(booking: Booking) -> Server[Any]:
        async def call(_context: Any, params: Any) -> Any:
            try:
                return _result(booking(params.arguments["prompt"], params.request_state, params.input_responses))
            except ValueError as error:
                return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)

        server = Server("asking", on_call_tool=call, on_list_tools=_tools)
        boundary = RequestStateBoundary(RequestStateSecurity(keys=["k" * 32]), default_audience="asking")
        if seal == "outside":
            server.middleware.append(boundary)
        if installed:
            install(server, **installed)
        if seal == "inside":
            server.middleware.append(boundary)
        return server

    return make


def _class_based(*, seal: bool = False, **installed: Any) -> Make:
    def make(booking: Booking) -> Server[Any]:
        class Book:
            name = "book"
            params: Any = None

            @persisted
            async def execute(self, arguments: dict[str, Any]) -> Any:
                value = booking(arguments["prompt"], self.params.request_state, self.params.input_responses)
                return _result(value)

        book = Book()

        async def call(_context: Any, params: Any) -> Any:
            book.params = params
            try:
                return await book.execute(params.arguments)
            except ValueError as error:
                return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)

        server = Server("asking", on_call_tool=call, on_list_tools=_tools)
        if installed:
            install(server, **installed)
        if seal:
            policy = RequestStateSecurity(keys=["k" * 32])
            server.middleware.append(RequestStateBoundary(policy, default_audience="asking"))
        return server

    return make


def _bare(handler: Any) -> Any:
    return handler


BARE: Make = _mcpserver(_bare)

ASKING: dict[str, Make] = {
    "decorated": _mcpserver(persisted),
    "named": _mcpserver(_bare, tools=["book"]),
    "decorated and installed": _mcpserver(persisted, tools=()),
    "decorated and named": _mcpserver(persisted, tools=["book"]),
    "low-level, named": _lowlevel(tools=["book"]),
    "low-level, named, sealed outside": _lowlevel(tools=["book"], seal="outside"),
    "low-level, named, sealed inside": _lowlevel(tools=["book"], seal="inside"),
    "class-based": _class_based(),
    "class-based, sealed": _class_based(seal=True),
    "class-based, installed": _class_based(tools=()),
    "class-based, installed and sealed": _class_based(tools=(), seal=True),
}
"""Every way in which the tool can be persisted."""


def book_with(client: Client) -> "Callable[..., Any]":
    """Sends one leg of a call: `await leg(prompt, answer=…, state=…, continuation_id=…)`."""

    async def send(prompt: str = "trip", *, state: str | None = None, text: str | None = None, **more: Any) -> Json:
        return await leg(client, {"prompt": prompt, **more}, state=state, text=text)

    return send


async def leg(
    client: Client, arguments: Json, *, state: str | None = None, text: str | None = None, meta: Any = None
) -> Json:
    responses = None if text is None else {"q": answer(text)}
    result = await client.session.call_tool(
        "book", arguments, request_state=state, input_responses=responses, allow_input_required=True, meta=meta
    )
    return wire(result)


def answer(text: str) -> ElicitResult:
    return ElicitResult(action="accept", content={"text": text})
