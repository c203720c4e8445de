"""A process that lives, one that is suspended, and one that was killed are told apart by any other, on every backend.

Run as a program, this file is the process: `test_processes.py FOLDER` calls a slow tool twice, under two keys.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
from backends import Backend
from conftest import on_every_backend
from mcp import Client
from mcp.server.mcpserver import MCPServer

from perdure import Outcome, persisted
from perdure.middleware.meta_keys import META_IDEMPOTENCY_KEY
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.turn import Turn

LEASE = timedelta(seconds=1)


@on_every_backend
def test_a_tool_that_runs_for_long_is_running_while_its_process_lives_and_interrupted_when_it_does_not(
    backend: Backend, tmp_path: Path
) -> None:
    environment = {**os.environ, **backend.environment, "PERDURE_LEASE_SECONDS": str(LEASE.total_seconds())}
    environment |= {"PERDURE_DEFAULTS__REPLAY": "true", "PYTHONPATH": str(Path(__file__).parents[1])}
    store = backend.open()
    with process(tmp_path, environment) as first:
        sees(store, Outcome.RUNNING, Outcome.RUNNING)
        until = max(turn.lease_until for turn in turns(store)) + 2 * LEASE
        sees(store, Outcome.RUNNING, Outcome.RUNNING, lease_after=until)  # for longer than it was given
        os.kill(first.pid, signal.SIGSTOP)
        sees(store, Outcome.INTERRUPTED, Outcome.INTERRUPTED)
        os.kill(first.pid, signal.SIGCONT)
        sees(store, Outcome.RUNNING, Outcome.RUNNING)
        (tmp_path / "one").touch()
        sees(store, Outcome.ANSWERED, Outcome.RUNNING)
        first.kill()
        sees(store, Outcome.ANSWERED, Outcome.INTERRUPTED)
    (tmp_path / "two").touch()
    with process(tmp_path, environment) as second:  # which sends both calls again, under their keys
        assert second.wait(60) == 0
    sees(store, Outcome.ANSWERED, Outcome.ANSWERED)
    assert sorted((tmp_path / "ran").read_text().split()) == ["one", "two", "two"]  # what was answered is not run again
    store.close()


@contextmanager
def process(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, __file__, str(folder)], env=environment) as started:
        try:
            yield started
        finally:
            started.kill()


def turns(store: Store) -> list[Turn]:
    """As any process sees them now."""
    now = datetime.now(UTC)
    return [turn.seen_at(now) for turn in store.turns("local", "c")]


def sees(store: Store, *outcomes: Outcome, lease_after: datetime | None = None) -> None:
    """In a while."""
    deadline = time.monotonic() + 60
    while True:
        found = sorted(turns(store), key=lambda turn: turn.prompt)
        leases_moved = lease_after is None or all(turn.lease_until > lease_after for turn in found)
        if tuple(turn.outcome for turn in found) == outcomes and leases_moved:
            return
        assert time.monotonic() < deadline, (outcomes, found)
        time.sleep(0.02)


async def call_both(folder: Path) -> None:
    server = MCPServer("slow")

    @server.tool()
    @persisted(history="none")
    async def slow(prompt: str) -> str:
        with (folder / "ran").open("a") as ran:
            ran.write(f"{prompt}\n")
        while not (folder / prompt).exists():
            await anyio.sleep(0.02)
        return prompt

    async def call(prompt: str) -> None:
        async with Client(server) as client:
            arguments = {"prompt": prompt, "continuation_id": "c"}
            await client.call_tool("slow", arguments, meta={META_IDEMPOTENCY_KEY: prompt})  # type: ignore[typeddict-unknown-key]

    async with anyio.create_task_group() as group:
        for prompt in ("one", "two"):
            group.start_soon(call, prompt)


if __name__ == "__main__":
    asyncio.run(call_both(Path(sys.argv[1])))
