"""A chat tool that remembers, and two tools that pass a file on. The "model" is three lines of Python."""

import tempfile
from pathlib import Path

from mcp.server.mcpserver import MCPServer

from perdure import History, persisted

mcp = MCPServer("chat")


@mcp.tool()
@persisted
async def chat(prompt: str, history: History) -> str:
    """Talk with a model that knows what was said before."""
    if "what did i say" in prompt.lower():
        said = [turn.prompt for turn in history]
        return "You said: " + " / ".join(said) if said else "You have not said anything yet."
    return f"I will remember that. Turns before this one: {len(history)}."


@mcp.tool()
@persisted
def write_report(text: str) -> str:
    """Write a report, and say where it is."""
    report = Path(tempfile.mkdtemp(), "report.txt")
    report.write_text(text)
    return str(report)


@mcp.tool()
@persisted
def read_aloud(path: str) -> str:
    """Read a file. Knows of local paths only."""
    return Path(path).read_text()


if __name__ == "__main__":
    mcp.run()
