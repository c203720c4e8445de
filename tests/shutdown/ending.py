"""Processes that serve calls of persisted tools and end, each in a way of its own.

    ending.py FOLDER WAY …

One process imports everything and forks one for each WAY, which then ends as a program of its own would: through the
end of this file, and the interpreter's. Each has the settings of the environment, and `FOLDER/WAY` for its data and for
what is said of it: `acknowledged`, a line for each turn that a result said to be kept; `open`, the turn whose tool runs
when the end comes; `ended`, the exit code and the seconds that the end took.
"""

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import anyio
from mcp import Client
from mcp.server.mcpserver import MCPServer

from perdure import current_conversation, persisted

__all__ = ["ENDED_BY_ITSELF", "ENDED_FROM_OUTSIDE", "HANGS"]

CALLS = 3
"""Before the end comes: as many as it takes until a store that hangs is left alone."""

HANGS = 40.0
"""Seconds after which a process that has not ended hangs."""

_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}

folder = Path()
"""This process's own."""

server = MCPServer("ending", log_level="WARNING")


@server.tool()
@persisted
async def chat(prompt: str) -> str:
    return f"heard {prompt}"


@server.tool()
@persisted(history="none")
async def slow(prompt: str) -> str:
    conversation = current_conversation()
    assert conversation is not None
    (folder / "open").write_text(conversation.turn_id)
    await anyio.sleep_forever()
    return prompt


# ── ends that come from inside ───────────────────────────────────────────────────────────────────────────────


async def talk(*, of: str = "parent") -> None:
    async with Client(server) as client:
        for number in range(CALLS):
            arguments = {"prompt": f"{of} {number}", "continuation_id": of}
            note((await client.call_tool("chat", arguments)).model_dump(by_alias=True))


def note(result: Mapping[str, Any]) -> None:
    meta = result["_meta"]
    if meta["perdure/persisted"]:
        with (folder / "acknowledged").open("a") as file:
            file.write(meta["perdure/turn-id"] + "\n")


async def leave_one_open() -> "asyncio.Task[Any]":
    async def call() -> None:
        async with Client(server) as client:
            await client.call_tool("slow", {"prompt": "for ever"})

    task = asyncio.create_task(call())
    while not (folder / "open").exists():
        await anyio.sleep(0.01)
    return task


def leave_one_open_in_a_thread() -> None:
    async def call() -> None:
        await (await leave_one_open())

    threading.Thread(target=asyncio.run, args=(call(),), daemon=True).start()
    while not (folder / "open").exists():
        time.sleep(0.01)


def the_end_comes() -> None:
    (folder / "end").write_text(str(time.monotonic()))


def the_script_ends() -> None:
    asyncio.run(talk())
    leave_one_open_in_a_thread()
    the_end_comes()


def the_loop_closes_and_another_is_opened() -> None:
    async def both() -> None:
        await talk()
        await leave_one_open()
        the_end_comes()

    asyncio.run(both())
    asyncio.run(talk(of="second loop"))


def sys_exit_is_called() -> NoReturn:
    the_script_ends()
    sys.exit(3)


def sys_exit_is_called_in_the_loop() -> None:
    async def main() -> None:
        await talk()
        await leave_one_open()
        the_end_comes()
        sys.exit(3)

    asyncio.run(main())


def main_raises() -> NoReturn:
    the_script_ends()
    raise RuntimeError("nobody catches this")


def a_child_is_forked_and_ends_as_a_script() -> None:
    _fork(_talk_as_child)


def a_child_is_forked_that_knows_nothing_of_us() -> None:
    _fork(lambda: None)


def _fork(work: Callable[[], None]) -> None:
    """With a turn open, a child that ends as any interpreter does."""
    asyncio.run(talk())
    leave_one_open_in_a_thread()
    child = os.fork()
    if child == 0:
        work()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    the_end_comes()


def multiprocessing_forks_a_child() -> None:
    asyncio.run(talk())
    leave_one_open_in_a_thread()
    child = multiprocessing.get_context("fork").Process(target=_talk_as_child)
    child.start()
    child.join()
    assert child.exitcode == 0
    the_end_comes()


def _talk_as_child() -> None:
    asyncio.run(talk(of="child"))


ENDED_BY_ITSELF: dict[str, Callable[[], None]] = {
    work.__name__: work
    for work in (
        the_script_ends,
        the_loop_closes_and_another_is_opened,
        sys_exit_is_called,
        sys_exit_is_called_in_the_loop,
        main_raises,
        a_child_is_forked_and_ends_as_a_script,
        a_child_is_forked_that_knows_nothing_of_us,
        multiprocessing_forks_a_child,
    )
}

# ── ends that come from outside, to a stdio server ───────────────────────────────────────────────────────────


@dataclass
class Started:
    pid: int
    to: int
    said: int
    folder: Path
    number: int = 0

    def end(self, way: str) -> None:
        match way:
            case "stdin_is_closed":
                os.close(self.to)
            case "sigterm":
                os.kill(self.pid, signal.SIGTERM)
            case "sigint":
                # As from a terminal, whose other programs end too: the SDK's stdio server waits for its stdin to close.
                os.kill(self.pid, signal.SIGINT)
                os.close(self.to)

    def ask(self, tool: str, arguments: Mapping[str, Any]) -> None:
        self.number += 1
        params = {"name": tool, "arguments": arguments, "_meta": _META}
        request = {"jsonrpc": "2.0", "id": self.number, "method": "tools/call", "params": params}
        os.write(self.to, (json.dumps(request) + "\n").encode())


ENDED_FROM_OUTSIDE = ("stdin_is_closed", "sigterm", "sigint")


def see_it_end(way: str, started: Started) -> None:
    """Talk to it as a client if it serves one, see that it ends, and write down what there is to say of that."""
    with os.fdopen(started.said, "rb") as said:
        if way in ENDED_FROM_OUTSIDE:
            for number in range(CALLS):
                started.ask("chat", {"prompt": f"parent {number}", "continuation_id": "parent"})
                _note_for(started, json.loads(said.readline())["result"])
            started.ask("slow", {"prompt": "for ever"})
            while not (started.folder / "open").exists():
                time.sleep(0.01)
            (started.folder / "end").write_text(str(time.monotonic()))
            started.end(way)
        code = _exit_code(started.pid)
        at = time.monotonic()
        rest = said.read()
    (started.folder / "stdout").write_bytes(rest)
    came = float((started.folder / "end").read_text()) if (started.folder / "end").exists() else at
    (started.folder / "ended").write_text(json.dumps({"code": code, "seconds": at - came}))


def _note_for(started: Started, result: Mapping[str, Any]) -> None:
    if result["_meta"]["perdure/persisted"]:
        with (started.folder / "acknowledged").open("a") as file:
            file.write(result["_meta"]["perdure/turn-id"] + "\n")


def _exit_code(pid: int) -> int | None:
    """None: it had to be killed."""
    with contextlib.closing(_PidFd(pid)) as ended:
        if select.select([ended], [], [], HANGS)[0]:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


class _PidFd:
    """Readable once the process has ended."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


# ── the process that forks them all ──────────────────────────────────────────────────────────────────────────


def start_all(base: Path, ways: list[str]) -> str | None:
    """In a process that was forked: the way in which it is to end. In this one None, when all have ended."""
    global folder  # noqa: PLW0603 - of the process that this becomes
    children: dict[str, Started] = {}
    gc.freeze()  # or each child copies what it only looks through
    for way in ways:
        (base / way).mkdir(parents=True)
        theirs_in, to = os.pipe()
        said, theirs_out = os.pipe()
        pid = os.fork()
        if pid == 0:
            for other in children.values():
                os.close(other.to)
            os.close(to)
            folder = base / way
            os.environ["PERDURE_DATA_DIR"] = str(folder / "data")
            errors = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT)
            for ours, standard in ((theirs_in, 0), (theirs_out, 1), (errors, 2)):
                os.dup2(ours, standard)
                os.close(ours)
            return way
        os.close(theirs_in)
        os.close(theirs_out)
        children[way] = Started(pid, to, said, base / way)
    with ThreadPoolExecutor(len(children)) as threads:
        list(threads.map(see_it_end, children.keys(), children.values()))
    return None


if __name__ == "__main__":
    end = start_all(Path(sys.argv[1]), sys.argv[2:])
    if end in ENDED_BY_ITSELF:
        ENDED_BY_ITSELF[end]()
    elif end is not None:
        server.run()
