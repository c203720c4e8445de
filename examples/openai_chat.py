"""A chat tool over any endpoint that speaks OpenAI's chat completions: OpenAI, Ollama, vLLM, llama.cpp, OpenRouter, …

    OPENAI_BASE_URL=http://localhost:11434/v1 OPENAI_MODEL=llama3.2 python openai_chat.py

The model is given the earlier turns of the conversation, after a restart too. That is all there is to it: `history`.
"""

import os

import httpx
from mcp.server.mcpserver import MCPServer

from perdure import History, persisted

ENDPOINT = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
KEY = os.environ.get("OPENAI_API_KEY", "none")  # local servers ask for none
MODEL = os.environ.get("OPENAI_MODEL", "gpt-5-mini")

mcp = MCPServer("openai-chat")


@mcp.tool()
@persisted(max_turns=50, max_tokens=32_000)
async def chat(prompt: str, history: History) -> str:
    """Talk with a model that knows what was said before."""
    messages = [*history.messages("openai"), {"role": "user", "content": prompt}]
    async with httpx.AsyncClient(base_url=ENDPOINT, timeout=120) as client:
        answer = await client.post(
            "/chat/completions", json={"model": MODEL, "messages": messages}, headers={"Authorization": f"Bearer {KEY}"}
        )
        answer.raise_for_status()
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


if __name__ == "__main__":
    mcp.run()
