"""The main job, for real: chat with a server, kill it without warning, start it again, and see that it remembers.

Everything here is what it seems: a real MCP client talks over stdio with a real server process (`chat_server.py`), and
SIGKILL ends that process. Exits with 1 if the memory is not there.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from rich.console import Console
from rich.text import Text

SERVER = Path(__file__).with_name("chat_server.py")

console = Console(highlight=False, soft_wrap=True)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="perdure-demo-") as folder:
        console.print("[bold]perdure: an MCP server that is killed, and remembers[/bold]\n")
        secret = f"my dog is called Rex-{os.getpid()}"

        step("1. A server starts. It offers one tool, chat, decorated with @persisted.")
        async with server(folder) as (client, pid):
            told(f"process {pid} runs, its data is in {folder}")
            step("2. We chat.")
            first = await say(client, f"Hello, {secret}.")
            conversation = first["_meta"]["perdure/continuation-id"]
            told(f"the answer names the conversation: {conversation}")
            await say(client, "I live in Lisbon.", conversation)
            step("3. We kill the server with SIGKILL: it has no chance to save anything.")
            os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid)
            told(f"process {pid} is gone")

        step("4. The server starts again: a new process, with nothing in its memory.")
        async with server(folder) as (client, again):
            told(f"process {again} runs")
            step("5. We name the conversation, and ask.")
            answer = await say(client, "What did I say?", conversation)

        history = answer["_meta"]["perdure/history"]
        text = answer["content"][0]["text"]
        if secret not in text or "Lisbon" not in text or history["turns"] != 2 or again == pid:
            console.print("\n[bold red]FAILED:[/] the tool was not given what was said before the kill.")
            console.print(Text(f"It answered: {text}\nHistory: {history}"))
            sys.exit(1)
        console.print(f"\n[bold green]It remembers.[/] The tool was given {history['turns']} earlier turns from disk.")
        console.print(
            "The whole tool is 8 lines; what keeps its memory is the line @persisted: examples/chat_server.py"
        )


@asynccontextmanager
async def server(folder: str) -> AsyncIterator[tuple[Client, int]]:
    """A running server: a client connected to it, and its process id."""
    pid_file = Path(folder, "pid")
    # The shell notes its process id and then becomes the server.
    command = f'echo $$ > "{pid_file}"; exec "{sys.executable}" "{SERVER}"'
    # With a data directory of its own, and without whatever settings this user may have.
    environment = {**os.environ, "PERDURE_DATA_DIR": folder, "PERDURE_CONFIG": os.devnull}
    started = StdioServerParameters(command="/bin/sh", args=["-c", command], env=environment)
    async with Client(started) as client:
        yield client, int(pid_file.read_text())


async def say(client: Client, prompt: str, continuation_id: str | None = None) -> dict[str, Any]:
    arguments = {"prompt": prompt} | ({"continuation_id": continuation_id} if continuation_id else {})
    result = await client.call_tool("chat", arguments)
    wire = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    console.print(Text.assemble(("   you   ", "cyan"), prompt))
    console.print(Text.assemble(("   tool  ", "magenta"), wire["content"][0]["text"]))
    if wire.get("_meta", {}).get("perdure/persisted") is not True:
        console.print("\n[bold red]FAILED:[/] the turn was not kept.")
        sys.exit(1)
    return wire


def step(text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def told(text: str) -> None:
    console.print(Text(f"   {text}", style="dim"))


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").exists() and " Z " in Path(f"/proc/{pid}/stat").read_text():
                return  # dead; its parent has not collected it yet
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.01)
    console.print(f"[bold red]FAILED:[/] process {pid} is still there.")
    sys.exit(1)


if __name__ == "__main__":
    anyio.run(main)
