"""The main job, for real: chat with a server, kill it without warning, start it again, and see that it remembers.

Everything here is what it seems: a real MCP client talks over stdio with a real server process (`chat_server.py`), and
SIGKILL ends that process. Exits with 1 if the memory is not there.
"""

import os
import shutil
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
        console.print("[bold]perdure: an MCP server that is killed, and remembers[/bold]")
        said = f"my dog is called Rex-{os.getpid()}"

        step("1. A server starts. Its tools are decorated with @persisted.")
        async with server(folder) as (client, pid):
            told(f"process {pid} runs; what it keeps is in {folder}/data")
            step("2. We chat, and have it write a report to its temp directory.")
            first = await call(client, "chat", prompt=f"Hello, {said}.")
            conversation = first["_meta"]["perdure/continuation-id"]
            told(f"the answer names the conversation: {conversation}")
            await call(client, "chat", prompt="I live in Lisbon.", continuation_id=conversation)
            report = await call(client, "write_report", text=f"Report: {said}.")
            uri = report["content"][0]["text"]
            told("the tool gave a local path; the client got a storage URI in its place")
            step("3. We kill the server with SIGKILL: it has no chance to save anything. Its temp directory is wiped.")
            os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid)
            shutil.rmtree(Path(folder, "temp"))
            told(f"process {pid} is gone, and so is the report it wrote")

        step("4. The server starts again: a new process, with nothing in its memory.")
        async with server(folder) as (client, again):
            told(f"process {again} runs")
            step("5. We name the conversation, and ask.")
            answer = await call(client, "chat", prompt="What did I say?", continuation_id=conversation)
            step("6. We pass the storage URI to another tool, which knows of local paths only.")
            reading = await call(client, "read_aloud", path=uri)

        history, text = answer["_meta"]["perdure/history"], answer["content"][0]["text"]
        expect(again != pid, "the server is a new process")
        expect(said in text and "Lisbon" in text, f"the tool was given what was said before, and answers {text!r}")
        expect(history["turns"] == 2, f"two earlier turns came from disk: {history}")
        expect(uri.startswith("storage://"), f"the client got a storage URI: {uri}")
        expect(reading["content"][0]["text"] == f"Report: {said}.", "the file came back with its content")
        console.print(
            f"\n[bold green]It remembers.[/] {history['turns']} earlier turns and one file came back from disk."
        )
        console.print("What keeps them is the line @persisted above each tool: examples/chat_server.py")


@asynccontextmanager
async def server(folder: str) -> AsyncIterator[tuple[Client, int]]:
    """A running server: a client connected to it, and its process id."""
    pid_file = Path(folder, "pid")
    # The shell notes its process id and then becomes the server.
    command = f'echo $$ > "{pid_file}"; exec "{sys.executable}" "{SERVER}"'
    temp = Path(folder, "temp")
    temp.mkdir(exist_ok=True)
    # With directories of its own, and without whatever settings this user may have.
    own = {"PERDURE_DATA_DIR": str(Path(folder, "data")), "PERDURE_CONFIG": os.devnull, "TMPDIR": str(temp)}
    environment = {**os.environ, **own}
    started = StdioServerParameters(command="/bin/sh", args=["-c", command], env=environment)
    async with Client(started) as client:
        yield client, int(pid_file.read_text())


async def call(client: Client, tool: str, **arguments: str) -> dict[str, Any]:
    console.print(Text.assemble((f"   {'you':<14}", "cyan"), next(iter(arguments.values()))))
    result = await client.call_tool(tool, arguments)
    wire = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    console.print(Text.assemble((f"   {tool:<14}", "magenta"), wire["content"][0]["text"]))
    expect(not wire.get("isError"), f"the tool answers: {wire['content'][0]['text']}")
    expect(wire.get("_meta", {}).get("perdure/persisted") is True, "the turn was kept")
    return wire


class Failed(Exception):
    """What should hold, and does not."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Failed(what)


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
    raise Failed(f"process {pid} ends when it is killed")


if __name__ == "__main__":
    try:
        anyio.run(main)
    except* Failed as group:
        failed: BaseException = group
        while isinstance(failed, BaseExceptionGroup):
            failed = failed.exceptions[0]
        console.print("\n[bold red]FAILED.[/] This should hold, and does not:")
        console.print(Text(f"   {failed}"))
        sys.exit(1)
