"""A server of mcp 2.x on stdio, without perdure, whose tools ask the client before they answer, and then say with what
state of their own they were called: `python asking_server.py sealed|plain`.
"""

import json
import sys
from typing import Any

from mcp.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.request_state import RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    ListToolsResult,
    TextContent,
    Tool,
)

FORM = {"type": "object", "properties": {"text": {"type": "string"}}}
SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}


def book(prompt: str, state: str | None, answers: Any, own: str | None) -> InputRequiredResult | str:
    if not answers:
        question = ElicitRequest(params=ElicitRequestFormParams(message="Sure?", requested_schema=FORM))
        return InputRequiredResult(input_requests={"q": question}, request_state=own)
    return json.dumps({"prompt": prompt, "state": state, "answer": answers["q"].content["text"]})


def sealed() -> None:
    """The SDK encrypts the state, and refuses one that is not as it was."""
    server = MCPServer("asking", request_state_security=RequestStateSecurity(keys=["k" * 32]))

    @server.tool(name="book")
    async def with_a_state(prompt: str, ctx: Context) -> str | InputRequiredResult:
        return book(prompt, ctx.request_state, ctx.input_responses, "mine")

    server.run("stdio")


async def plain() -> None:
    async def call(_context: Any, params: Any) -> Any:
        own = "mine" if params.name == "book" else None
        value = book(params.arguments["prompt"], params.request_state, params.input_responses, own)
        return CallToolResult(content=[TextContent(type="text", text=value)]) if isinstance(value, str) else value

    async def tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=name, input_schema=SCHEMA) for name in ("book", "book_stateless")])

    server = Server("asking", on_call_tool=call, on_list_tools=tools)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    if sys.argv[1] == "sealed":
        sealed()
    else:
        import anyio

        anyio.run(plain)
