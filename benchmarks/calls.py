"""What perdure adds to a tool call, as an MCP client in the same process sees it; and to the bare function."""

import functools
import inspect
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client
from mcp.server.mcpserver import MCPServer

from benchmarks.by_turns import by_turns
from benchmarks.content import answer_to, prompt_of
from benchmarks.core import core
from benchmarks.harness import Candidate, Comparison, Goal, Result, interleaved
from perdure import Outcome, install, persisted
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.settings import Settings, ToolSettings

__all__ = ["run"]

_CALLS = 40
"""In one round, for each candidate."""

_FUNCTION_CALLS = 4_000
"""The same, where only a function is called."""

_GOALS = {
    "decorated, in-memory store": Goal(quantity="added", limit=100),
    "installed, in-memory store": Goal(quantity="added", limit=120),
}

Kind: TypeAlias = Literal["async", "sync"]

Handler: TypeAlias = Callable[..., Any]


def run(rounds: int, folder: Path) -> list[Result]:
    with start_blocking_portal() as portal:
        return [
            _whole_calls(portal, "async", rounds, folder),
            _whole_calls(portal, "sync", rounds, folder),
            by_turns(portal, rounds, folder),
            core(portal, rounds, folder),
            _switched_off_functions(portal, rounds, folder),
        ]


# ── a whole call, from an MCP client and back ────────────────────────────────────────────────────────────────────


def _whole_calls(portal: BlockingPortal, kind: Kind, rounds: int, folder: Path) -> Result:
    with ExitStack() as stack:

        def served(server: MCPServer, runtime: wiring.Runtime, continuation_id: str | None = None) -> "_Tool":
            client = stack.enter_context(portal.wrap_async_context_manager(Client(server)))
            return _Tool(portal, client, runtime, continuation_id)

        def on(store: Store) -> wiring.Runtime:
            return wiring.build(Settings(data_dir=folder), store=store)

        off = _switched_off(folder)
        sqlite = SqliteStore(folder / f"{kind}.db")
        stack.callback(sqlite.close)
        tools = {
            "bare": served(_server(_handler(kind)), off),
            "decorated, switched off": served(_server(persisted(_handler(kind))), off),
            "installed, not named": served(_installed(_handler(kind), []), off),
            "decorated, in-memory store": served(_server(persisted(_handler(kind))), on(MemoryStore())),
            "decorated, in-memory, continued": served(_server(persisted(_handler(kind))), on(MemoryStore()), "bench"),
            "installed, in-memory store": served(_installed(_handler(kind), ["chat"]), on(MemoryStore())),
            "decorated, SQLite": served(_server(persisted(_handler(kind))), on(sqlite)),
        }
        comparison = Comparison(
            name="calls",
            title=f"One call of {'an async' if kind == 'async' else 'a sync'} tool through the in-memory MCP client",
            unit="µs",
            candidates=[
                Candidate(
                    name=name,
                    measure=tool.measure,
                    floor=None if name == "bare" else "bare",
                    goal=_GOALS.get(name),
                )
                for name, tool in tools.items()
            ],
        )
        result = interleaved(comparison, rounds)
        continued = tools["decorated, in-memory, continued"]
        calls = sum(tool.verified() for tool in tools.values() if tool.runtime is not off)
        notes = [
            f"Verified: all {calls:,} turns that a result called persisted are in their stores.",
            f"Continued: one conversation, whose newest {continued.turns_given} turns are put into the prompt."
            " All others begin a new conversation with each call.",
        ]
        return replace(result, notes=notes)


@dataclass
class _Tool:
    """The tool `chat` of one server, called by one client."""

    portal: BlockingPortal
    client: Client
    runtime: wiring.Runtime
    continuation_id: str | None = None
    turns_given: int = 0
    """Of history, in the last call."""
    _acknowledged: list[tuple[str, str]] = field(default_factory=list)
    """Continuation id and turn id."""
    _asked: int = 0

    def measure(self) -> float:
        """One round: the median time of a call, in microseconds."""
        with wiring.activated(self.runtime):
            return self.portal.call(self._call_many)

    def verified(self) -> int:
        """How many turns were acknowledged: each is in the store, answered.

        Raises:
            AssertionError: One is not, or a call was not acknowledged.
        """
        if len(self._acknowledged) != self._asked:
            raise AssertionError(f"{self._asked - len(self._acknowledged)} calls were not persisted")
        store = self.runtime.engine.store
        for continuation_id in {continuation_id for continuation_id, _ in self._acknowledged}:
            wanted = {turn_id for found, turn_id in self._acknowledged if found == continuation_id}
            kept = store.turns("local", continuation_id, limit=self._asked)
            if lost := wanted - {turn.id for turn in kept if turn.outcome is Outcome.ANSWERED}:
                raise AssertionError(f"{len(lost)} acknowledged turns of {continuation_id!r} are not in the store")
        return self._asked

    async def _call_many(self) -> float:
        taken = []
        for _ in range(_CALLS):
            self._asked += 1
            arguments = {"prompt": prompt_of(self._asked)}
            if self.continuation_id is not None:
                arguments["continuation_id"] = self.continuation_id
            started = time.perf_counter()
            result = await self.client.call_tool("chat", arguments)
            taken.append(time.perf_counter() - started)
            if result.is_error:
                raise AssertionError(f"The tool failed: {result.content}")
            self._note(result.meta or {})
        return statistics.median(taken) * 1e6

    def _note(self, meta: Mapping[str, Any]) -> None:
        if meta.get("perdure/persisted"):
            self._acknowledged.append((meta["perdure/continuation-id"], meta["perdure/turn-id"]))
            self.turns_given = meta["perdure/history"]["turns"]


def _server(handler: Handler) -> MCPServer:
    server = MCPServer("benchmark", log_level="ERROR")
    server.tool()(handler)
    return server


def _installed(handler: Handler, tools: list[str]) -> MCPServer:
    server = _server(handler)
    install(server, tools=tools)
    return server


def _switched_off(folder: Path) -> wiring.Runtime:
    """As with `[tools.chat] enabled = false` in `perdure.toml`."""
    return wiring.build(Settings(data_dir=folder, tools={"chat": ToolSettings(enabled=False)}), store=MemoryStore())


def _handler(kind: Kind) -> Handler:
    if kind == "async":

        async def chat(prompt: str) -> str:
            """Talk with a model that answers at once."""
            return answer_to(prompt)

        return chat

    def chat_in_thread(prompt: str) -> str:
        """Talk with a model that answers at once."""
        return answer_to(prompt)

    chat_in_thread.__name__ = "chat"
    return chat_in_thread


# ── a switched-off tool's function, called as the SDK calls it ───────────────────────────────────────────────────


def _switched_off_functions(portal: BlockingPortal, rounds: int, folder: Path) -> Result:
    """In a whole call a microsecond cannot be seen."""
    runtime = _switched_off(folder)

    async def bare_async(prompt: str) -> str:
        return prompt

    def bare_sync(prompt: str) -> str:
        return prompt

    bare_async.__name__ = bare_sync.__name__ = "chat"

    candidates: list[Candidate] = []
    for kind, bare in (("async", bare_async), ("sync", bare_sync)):
        candidates += [
            Candidate(name=f"{kind}: the bare handler", measure=partial(portal.call, _within_a_call, bare)),
            Candidate(
                name=f"{kind}: decorated, switched off",
                measure=partial(portal.call, _within_a_call, persisted(bare)),
                floor=f"{kind}: the bare handler",
                goal=Goal(quantity="added", limit=1),
            ),
        ]
    comparison = Comparison(
        name="calls",
        title="The function alone, within a call and with the arguments that the SDK gives it",
        unit="µs",
        candidates=candidates,
    )
    with wiring.activated(runtime):
        result = interleaved(comparison, rounds)
    if runtime.engine.conversations():
        raise AssertionError("A switched-off tool was persisted")
    return result


async def _within_a_call(function: Handler) -> float:
    """The mean time of one call of `function`, in microseconds: called where and as a server calls it."""
    taken: list[float] = []
    tool: Handler
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def tool(**given: Any) -> Any:
            await function(**given)
            started = time.perf_counter()
            for _ in range(_FUNCTION_CALLS):
                await function(**given)
            taken.append(time.perf_counter() - started)
            return await function(**given)
    else:

        @functools.wraps(function)
        def tool(**given: Any) -> Any:
            function(**given)
            started = time.perf_counter()
            for _ in range(_FUNCTION_CALLS):
                function(**given)
            taken.append(time.perf_counter() - started)
            return function(**given)

    async with Client(_server(tool)) as client:
        await client.call_tool("chat", {"prompt": prompt_of(0)})
    return taken[0] / _FUNCTION_CALLS * 1e6
