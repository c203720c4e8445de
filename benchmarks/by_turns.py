"""What a call costs where bare and persisted ones come by turns, as in reality; and what announcing alone costs.

CPU time of the thread that does it all, since that is what a busy machine does not change.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal
from mcp import Client
from mcp.server.mcpserver import MCPServer

from benchmarks.content import answer_to, prompt_of
from benchmarks.harness import Candidate, Comparison, Goal, Result, interleaved
from perdure import install, persisted
from perdure.middleware.announcement import announced
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import new_continuation_id
from perdure.middleware.tool_schema import amended
from perdure.settings import Announce, Policy, Settings

__all__ = ["by_turns"]

_CALLS = 100
"""Of each, in one round."""

_BARE = 190
"""µs of a bare call where the goals were set: what is added is held to what a bare call takes here."""

_STORE = 15
"""Microseconds: what the in-memory store alone takes, which the goal of an installed call leaves out (see `core`)."""


def by_turns(portal: BlockingPortal, rounds: int, folder: Path) -> Result:
    with ExitStack() as stack:
        servers = {
            "bare": _server(_chat),
            "the same announced by hand": _announcing_by_hand(),
            "installed, in-memory store": _server(_chat),
            "decorated, in-memory store": _server(persisted(_chat)),
        }
        install(servers["installed, in-memory store"], tools=["chat"])
        clients = {
            name: stack.enter_context(portal.wrap_async_context_manager(Client(server)))
            for name, server in servers.items()
        }
        turns = _Turns(portal, clients, wiring.build(Settings(data_dir=folder), store=MemoryStore()))
        goals = {
            "installed, in-memory store": Goal(quantity="ratio", limit=1 + (120 + _STORE) / _BARE),
            "decorated, in-memory store": Goal(quantity="ratio", limit=1 + 100 / _BARE),
        }
        comparison = Comparison(
            name="calls",
            title="The same by turns: each call after one of another server; CPU time, 10th percentiles",
            unit="µs",
            candidates=[
                Candidate(
                    name=name,
                    measure=partial(turns.measure, name),
                    floor=None if name == "bare" else "bare",
                    goal=goals.get(name),
                )
                for name in servers
            ],
        )
        return interleaved(comparison, rounds)


class _Turns:
    """One round gives the figures of all: whoever asks first has it run."""

    def __init__(self, portal: BlockingPortal, clients: Mapping[str, Client], runtime: wiring.Runtime) -> None:
        self._portal = portal
        self._clients = clients
        self._runtime = runtime
        self._figures: dict[str, float] = {}

    def measure(self, name: str) -> float:
        if name not in self._figures:
            with wiring.activated(self._runtime):
                self._figures = self._portal.call(self._round)
        return self._figures.pop(name)

    async def _round(self) -> dict[str, float]:
        taken: dict[str, list[float]] = {name: [] for name in self._clients}
        for number in range(_CALLS):
            arguments = {"prompt": prompt_of(number)}
            for name, client in self._clients.items():
                started = time.thread_time()
                result = await client.call_tool("chat", arguments)
                taken[name].append(time.thread_time() - started)
                if name != "bare" and "perdure/turn-id" not in (result.meta or {}):
                    raise AssertionError(f"{name}: {result}")
        return {name: sorted(each)[_CALLS // 10] * 1e6 for name, each in taken.items()}


async def _chat(prompt: str) -> str:
    """Talk with a model that answers at once."""
    return answer_to(prompt)


def _server(handler: Callable[..., Any]) -> MCPServer:
    server = MCPServer("benchmark", log_level="ERROR")
    server.tool(name="chat")(handler)
    return server


def _announcing_by_hand() -> MCPServer:
    """A server that persists nothing, and says what an installed perdure would."""
    server = _server(_chat)
    policy = Policy(enabled=True)
    continuation_id = new_continuation_id()
    meta = {
        "perdure/continuation-id": continuation_id,
        "perdure/turn-id": new_continuation_id(),
        "perdure/persisted": True,
        "perdure/history": {"state": "new", "turns": 0, "omitted": 0},
    }

    async def by_hand(ctx: Any, call_next: Callable[[Any], Any]) -> Any:
        result: Any = await call_next(ctx)
        if ctx.method == "tools/list":
            return {**result, "tools": [amended(tool, policy) for tool in result["tools"]]}
        if ctx.method != "tools/call":
            return result
        where = frozenset(Announce)
        return announced(result, where=where, continuation_id=continuation_id, meta=meta, in_structured=True)

    server._lowlevel_server.middleware.append(by_hand)
    return server
