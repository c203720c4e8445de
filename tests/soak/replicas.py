"""Three servers of streamable HTTP behind a load balancer over one Postgres; one is killed every few seconds.

    python tests/soak/replicas.py --kills 100 --protocol stateless
    python tests/soak/replicas.py --kills 100 --protocol sessions

32 clients call through the balancer, each in conversations of its own and in some that all share; whichever server
answers, the conversation goes on. In the end every turn that a client was told is kept must be in Postgres once, with
its own answer, in its client's order. Goes on where it was interrupted. Prints one line. The exit code is 1 if anything
is wrong.
"""

import argparse
import asyncio
import contextlib
import itertools
import logging
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from servers.load_balancer import LoadBalancer
from servers.postgres_cluster import PostgresCluster
from servers.unprivileged import free_port
from soak.acknowledged import Ledger, counted, told, violations
from soak.calls import PRINCIPAL
from soak.evidence import answer_to
from soak.forking import Process, started
from soak.progress import Progress

from perdure import persisted
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.wiring import build
from perdure.settings import Settings

PART = 25
"""Kills with one database."""

REPLICAS = 3
SHARED = ("shared one", "shared two", "shared three", "shared four")
PATIENCE = 120.0
"""Seconds in which all that waits in a spool must have been sent."""

Protocol = Literal["stateless", "sessions"]
MODES = {"stateless": "auto", "sessions": "legacy"}
"""What a client is told, so that it speaks the protocol of 2026-07-28, or the one with a handshake."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    protocol: Protocol
    kills: int
    clients: int = 32
    between_kills: tuple[float, float] = (1.0, 4.0)
    thinks: float = 0.5
    """Seconds between two calls of a client, at most."""


def serve_and_kill(plan: Plan, *, seed: str) -> tuple[Counter[str], list[str]]:
    """Returns figures and violations."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="perdure-replicas-") as temporary, PostgresCluster() as cluster:
        folder = Path(temporary)
        url = cluster.url(cluster.create_database("replicas"))
        migrations.apply(url, "replicas", lambda _: None)
        replicas = [Replica(folder / f"{number}", url, free_port(), plan.protocol) for number in range(REPLICAS)]
        ledger = Ledger(folder / "acknowledged")
        began = time.monotonic()
        try:
            for replica in replicas:
                replica.start()
            with LoadBalancer([replica.port for replica in replicas]) as balancer:
                address = f"http://127.0.0.1:{balancer.port}/mcp"
                broken = asyncio.run(_call_and_kill(plan, address, replicas, ledger, dice))
        finally:
            for replica in replicas:
                replica.kill()
        lines = ledger.read()
        ledger.close()
        figures = counted(lines) | Counter({"kills": plan.kills, "broken calls": broken})
        figures["seconds"] = int(time.monotonic() - began)
        found = [said for replica in replicas for said in _sent(replica, url)]
        runtime = build(Settings(backend="postgres", database_url=url, data_dir=folder / "reader"), spooled=False)
        found += violations(runtime.engine.store, PRINCIPAL, lines)
        runtime.engine.store.close()
        if sum(map(bool, balancer.connections)) < 2:
            found.append(f"one server alone was given something to do: {balancer.connections}")
    return figures, [f"{plan.protocol}, seed {seed}: {said}" for said in found]


async def _call_and_kill(
    plan: Plan, address: str, replicas: "list[Replica]", ledger: Ledger, dice: random.Random
) -> int:
    """Says how many calls had no answer, since their server was killed."""
    over = asyncio.Event()
    callers = [
        asyncio.create_task(_call(f"client {number}", address, plan, ledger, over)) for number in range(plan.clients)
    ]
    try:
        for _ in range(plan.kills):
            await asyncio.sleep(dice.uniform(*plan.between_kills))
            replica = dice.choice(replicas)
            replica.kill()
            await asyncio.to_thread(replica.start)
        await asyncio.sleep(dice.uniform(*plan.between_kills))
        over.set()
        return sum(await asyncio.gather(*callers))
    finally:
        for caller in callers:
            caller.cancel()


async def _call(name: str, address: str, plan: Plan, ledger: Ledger, over: asyncio.Event) -> int:
    """What one client does: it comes back with a connection of its own whenever it was cut off."""
    dice = random.Random(name)
    numbers = itertools.count()
    own: str | None = None
    broken = 0
    while not over.is_set():
        try:
            async with (
                httpx2.AsyncClient(timeout=20) as http,
                Client(streamable_http_client(address, http_client=http), mode=MODES[plan.protocol]) as client,
            ):
                while not over.is_set():
                    await asyncio.sleep(dice.uniform(0, plan.thinks))
                    number = next(numbers)
                    prompt = f"{name}: {number}"
                    conversation = dice.choice(SHARED) if number % 3 == 0 else own
                    arguments = {"prompt": prompt} | ({"continuation_id": conversation} if conversation else {})
                    result = await client.call_tool("chat", arguments)
                    assert result.content[0].text == answer_to(prompt), result
                    line = told(name, number, prompt, dict(result.meta or {}))
                    ledger.write(line)
                    if number % 3:
                        own = line.conversation
        except Exception as error:
            if isinstance(error, AssertionError | KeyError):
                raise
            broken += 1
            await asyncio.sleep(0.1)
    return broken


class Replica:
    """A server process with a data directory of its own, which stays when it is killed."""

    def __init__(self, folder: Path, url: str, port: int, protocol: Protocol) -> None:
        self.port = port
        self.data = folder / "data"
        self._log = folder / "stderr"
        self._protocol = protocol
        self._process: Process | None = None
        folder.mkdir()
        self._environment = {
            "PERDURE_BACKEND": "postgres",
            "PERDURE_CONFIG": os.devnull,
            "PERDURE_DATABASE_URL": url,
            "PERDURE_DATA_DIR": str(self.data),
            "PERDURE_SHARED_USER": "true",  # so that an id is good at all servers, and for clients to choose
        }

    def start(self) -> None:
        """Returns once it takes connections."""
        self._process = started(_serve, self.port, self._protocol, self._environment, self._log)
        deadline = time.monotonic() + 60
        while not _listens(self.port):
            assert self._process.is_alive(), self._log.read_text()[-3000:]
            assert time.monotonic() < deadline, self._log.read_text()[-3000:]
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _sent(replica: Replica, url: str) -> Iterator[str]:
    """Send what the killed server left in its spool, as its next start would."""
    runtime = build(Settings(backend="postgres", database_url=url, data_dir=replica.data))
    assert runtime.spool is not None
    with contextlib.closing(runtime.spool):
        deadline = time.monotonic() + PATIENCE
        while left := sum(line.turns for line in runtime.spool.status()):
            if time.monotonic() > deadline:
                yield f"{left} turns still wait in {replica.data} after {PATIENCE:g} s"
                break
            runtime.spool.flush(1.0)
        yield from (f"in quarantine: {one.reason}" for one in runtime.spool.quarantine())
    runtime.engine.store.close()


def _serve(port: int, protocol: Protocol, environment: dict[str, str], log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(output, standard)
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        del os.environ[name]
    os.environ.update(environment)
    server = MCPServer("replica", log_level="ERROR")

    @server.tool()
    @persisted
    async def chat(prompt: str) -> str:
        # What a tool's text may come with is not what was asked.
        return answer_to(prompt.rpartition("\n")[2])

    server.run("streamable-http", port=port, stateless_http=protocol == "stateless")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--protocol", choices=list(MODES), default="stateless")
    parser.add_argument("--seed", type=int, default=20261125)
    given = parser.parse_args()
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # Its client says of each cut connection what we count.
    progress = Progress(f"replicas_{given.protocol}", vars(given))
    while (done := progress.counts["kills"]) < given.kills:
        plan = Plan(protocol=given.protocol, kills=min(PART, given.kills - done), clients=given.clients)
        progress.add(*serve_and_kill(plan, seed=f"{given.seed}:{done}"))
    counts = progress.counts
    print(
        f"{given.protocol}: {given.clients} clients, {REPLICAS} servers, {counts['kills']} of them killed in "
        f"{counts['seconds']} s: {counts['acknowledged']:,} turns acknowledged, {counts['deferred']:,} of them by a "
        f"spool, {counts['broken calls']:,} calls cut off; {len(progress.violations)} violations"
    )
    for violation in progress.violations[:20]:
        print(violation, file=sys.stderr)
    progress.end()
    return 1 if progress.violations else 0


if __name__ == "__main__":
    sys.exit(main())
