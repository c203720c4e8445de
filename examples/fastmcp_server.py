"""A server of the package fastmcp (4.1 or newer), with a tool of its own and one of a server that it mounts.

pip install "fastmcp>=4.1,<5" && python fastmcp_server.py
"""

from fastmcp import FastMCP

from perdure import History, persisted

notes = FastMCP("notes")


@notes.tool
@persisted
async def note(prompt: str, history: History) -> str:
    """Take a note, and say how many there are in this conversation."""
    return f"{len(history) + 1} notes, the first of them: {[*(turn.prompt for turn in history), prompt][0]}"


mcp = FastMCP("desk")
mcp.mount(notes, namespace="notes")


@mcp.tool
async def ping() -> str:
    """Nothing to remember."""
    return "pong"


if __name__ == "__main__":
    mcp.run(show_banner=False)
