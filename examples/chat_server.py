"""A chat tool that remembers. The "model" is three lines of Python, so that this runs anywhere."""

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


if __name__ == "__main__":
    mcp.run()
