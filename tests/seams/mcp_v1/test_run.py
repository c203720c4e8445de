"""`perdure run` and `perdure proxy` before a server of mcp 1.x whose code knows nothing of perdure."""

import os
import sys
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client

HIGH_LEVEL = """
from mcp.server.fastmcp import FastMCP

mcp = FastMCP("theirs", log_level="ERROR")


@mcp.tool()
async def chat(prompt: str) -> str:
    return f"<{prompt}>"


if __name__ == "__main__":
    mcp.run()
"""

LOW_LEVEL = """
import anyio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

server = Server("theirs")


@server.list_tools()
async def tools():
    return [types.Tool(name="chat", inputSchema={"type": "object"})]


@server.call_tool()
async def call(name, arguments):
    return [types.TextContent(type="text", text=f"<{arguments['prompt']}>")]


async def main():
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


anyio.run(main)
"""


@pytest.mark.parametrize("way", ["run", "proxy"])
@pytest.mark.parametrize("code", [HIGH_LEVEL, LOW_LEVEL], ids=["FastMCP", "low-level"])
async def test_a_server_that_knows_nothing_of_perdure_remembers_across_its_restart(
    code: str, way: str, tmp_path: Path
) -> None:
    (script := tmp_path / "server.py").write_text(code)
    Path(os.environ["PERDURE_CONFIG"]).write_text("[tools.chat]\nenabled = true\n")
    perdure = str(Path(sys.executable).with_name("perdure"))
    arguments = ["run", str(script)] if way == "run" else ["proxy", "--", sys.executable, str(script)]
    texts = []
    for prompt in ("first words", "second words"):
        parameters = StdioServerParameters(command=perdure, args=arguments, env=dict(os.environ))
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            [entry] = (await session.list_tools()).tools
            result = await session.call_tool("chat", {"prompt": prompt, "continuation_id": "c"})
        assert "continuation_id" in entry.inputSchema["properties"]
        assert result.meta is not None
        assert result.meta["perdure/persisted"] is True
        texts.append(result.content[0].text)  # type: ignore[union-attr]
    assert "first words" in texts[1]
