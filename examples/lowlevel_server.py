"""A low-level server whose tools are classes, persisted by one line, `install`: no class knows of it.

    python lowlevel_server.py

A tool that takes no `history` is given the earlier turns as text, before its prompt.
"""

from typing import Any, ClassVar, Protocol

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, Tool

from perdure import install


class Handler(Protocol):
    name: str
    description: str

    async def run(self, prompt: str) -> str: ...


class Chat:
    name = "chat"
    description = "Talk with somebody who counts the lines that they are given."

    async def run(self, prompt: str) -> str:
        return f"I was given {len(prompt.splitlines())} lines, the last of them: {prompt.splitlines()[-1]}"


class Version:
    name = "version"
    description = "Which version this is. There is nothing to remember."

    async def run(self, prompt: str) -> str:
        return "1.0"


class Tools:
    handlers: ClassVar[dict[str, Handler]] = {handler.name: handler for handler in (Chat(), Version())}

    async def list(self, _context: Any, _params: Any) -> ListToolsResult:
        schema = {"type": "object", "properties": {"prompt": {"type": "string"}}}
        return ListToolsResult(
            tools=[
                Tool(name=handler.name, description=handler.description, input_schema=schema)
                for handler in self.handlers.values()
            ]
        )

    async def call(self, _context: Any, params: CallToolRequestParams) -> CallToolResult:
        answer = await self.handlers[params.name].run((params.arguments or {}).get("prompt", ""))
        return CallToolResult(content=[TextContent(text=answer)])


tools = Tools()
server: Server[Any] = Server("lowlevel", on_list_tools=tools.list, on_call_tool=tools.call)
install(server, tools=["chat"])


async def main() -> None:
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
