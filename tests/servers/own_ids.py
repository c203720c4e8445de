"""A stdio server that makes conversation ids of its own: what perdure's users come from.

It keeps threads in memory, refuses an id that it does not know before the tool runs, and gives a tool its thread when
it knows it. Its three tools have the id where such servers have it: in a member of the JSON text that is their answer,
at that text's top, and in structured content with a sentence about it. Knows nothing of perdure.

`OWN_IDS_LOG` names a file to which it adds each id that it makes.
"""

import asyncio
import json
import os
import uuid
from pathlib import Path
from typing import Any

from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

Json = dict[str, Any]

threads: dict[str, list[str]] = {}

ID = {"type": "string", "description": "ALWAYS reuse the last continuation_id that you were given."}


def _tool(name: str, *arguments: str, output_schema: Json | None = None) -> Tool:
    properties = {argument: {"type": "string"} for argument in arguments}
    schema = {
        "type": "object",
        "properties": {**properties, "continuation_id": ID},
        "required": list(arguments),
        "additionalProperties": False,
    }
    return Tool(name=name, input_schema=schema, output_schema=output_schema)


TOOLS = [
    _tool("chat", "prompt"),
    _tool("think", "step", "findings"),
    _tool(
        "review",
        "prompt",
        output_schema={
            "type": "object",
            "properties": {"verdict": {"type": "string"}, "continuation_id": {"type": "string"}},
            "required": ["verdict", "continuation_id"],
            "additionalProperties": False,
        },
    ),
]


def _new_thread() -> str:
    thread = str(uuid.uuid4())
    threads[thread] = []
    if log := os.environ.get("OWN_IDS_LOG"):
        with Path(log).open("a") as file:
            file.write(f"{thread}\n")
    return thread


def _text(text: str, *, structured: Json | None = None, is_error: bool = False) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=structured, is_error=is_error
    )


async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
    return ListToolsResult(tools=TOOLS)


async def call_tool(_context: Any, params: Any) -> CallToolResult:
    arguments = dict(params.arguments or {})
    thread = arguments.pop("continuation_id", None)
    unknown = set(arguments) - {"prompt", "step", "findings"}
    if unknown:
        return _text(f"Additional properties are not allowed: {sorted(unknown)}", is_error=True)
    if thread is not None and thread not in threads:
        return _text(f"Conversation thread '{thread}' was not found or has expired.", is_error=True)
    prompt = arguments.get("prompt") or arguments["findings"]
    earlier = "\n".join(threads[thread]) if thread else ""
    heard = f"=== CONVERSATION HISTORY ===\n{earlier}\n\n{prompt}" if thread else prompt
    if prompt == "fail":
        return _text('{"status": "error", "content": "it failed"}', is_error=True)
    thread = thread or _new_thread()
    threads[thread].append(prompt)
    match params.name:
        case "chat":
            # Written by hand: spellings that no JSON library would keep.
            return _text(
                f'{{"status":"continuation_available" ,"content":{json.dumps(heard)},\t"price": 1.50,'
                f'"large":12345678901234567890123,"zero":-0.0,"twice":1,"twice":2,"slash":"a\\/b",'
                f'"continuation_offer": {{ "note":"You can continue.", "continuation_id" : "{thread}",'
                f'"remaining_turns":49}}}}\n'
            )
        case "think":
            answer = {"status": "thinking_complete", "continuation_id": thread, "findings": heard, "step": 1}
            return _text(json.dumps(answer, indent=2, ensure_ascii=False))
        case _:
            structured = {"verdict": heard, "continuation_id": thread}
            return _text(f"{heard}\n\nUse continuation_id: {thread} to go on.", structured=structured)


server: Server[Any] = Server("own-ids", on_list_tools=list_tools, on_call_tool=call_tool)


async def main() -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
