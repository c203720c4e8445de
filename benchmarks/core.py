"""What perdure itself does in a call, from a server that answers at once to the in-memory store: without a client."""

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal

from benchmarks.content import answer_to, prompt_of, result_of
from benchmarks.harness import Candidate, Comparison, Goal, Result, interleaved
from perdure import Outcome
from perdure.middleware.call_files import Reporter
from perdure.middleware.call_reader import Caller, ToolRequest, ToolShape
from perdure.middleware.persisted_call import PersistedCall
from perdure.middleware.persisted_server import PersistedServer
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import Answer, JsonObject, Turn, Window, new_continuation_id, new_turn_id
from perdure.middleware.sdk import IncomingRequest
from perdure.middleware.tool_plan import ToolPlan
from perdure.settings import Settings, ToolSettings

__all__ = ["core"]

_CALLS = 200
"""In one round, for each candidate."""

_SCHEMA: JsonObject = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}

_OUTPUT: JsonObject = {"type": "object", "properties": {"result": {"type": "string"}}, "required": ["result"]}


def core(portal: BlockingPortal, rounds: int, folder: Path) -> Result:
    runtimes = [wiring.build(Settings(data_dir=folder), store=MemoryStore()) for _ in range(2)]
    through_server, through_call = _Server(), _Calls(runtimes[1])
    alone = _StoreAlone(MemoryStore())
    comparison = Comparison(
        name="calls",
        title="perdure's own part of a call, without an MCP client: it is faster alone than among an SDK's code",
        unit="µs",
        candidates=[
            Candidate(name="the in-memory store alone, begin and finish", measure=alone.measure),
            Candidate(
                name="an installed server's call",
                measure=partial(_in_loop, portal, runtimes[0], through_server.call),
                floor="the in-memory store alone, begin and finish",
                goal=Goal(quantity="added", limit=120),
            ),
            Candidate(
                name="the persisted call within it",
                measure=partial(_in_loop, portal, runtimes[1], through_call.call),
                floor="the in-memory store alone, begin and finish",
            ),
        ],
    )
    result = interleaved(comparison, rounds)
    kept = [_answered(runtime.engine.store) for runtime in runtimes]
    asked = [through_server.asked, through_call.asked]
    if kept != asked:
        raise AssertionError(f"Of {asked} turns, {kept} are in their stores")
    return replace(result, notes=[f"Verified: all {sum(asked):,} turns are in their stores, answered."])


def _in_loop(portal: BlockingPortal, runtime: wiring.Runtime, call: Callable[[], Awaitable[object]]) -> float:
    """The median time of one call, in microseconds."""

    async def many() -> float:
        taken = []
        for _ in range(_CALLS):
            started = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken) * 1e6

    with wiring.activated(runtime):
        return portal.call(many)


def _answered(store: Store) -> int:
    found = [store.turns("local", line.continuation_id) for line in store.conversations(limit=1_000_000)]
    return sum(turn.outcome is Outcome.ANSWERED for turns in found for turn in turns)


class _Server:
    """A server whose tool answers at once, behind an installed perdure: as `ServerBehind` has it."""

    def __init__(self) -> None:
        self.asked = 0
        self._persisted = PersistedServer(self, {"chat": ToolSettings(enabled=True)})

    async def call(self) -> object:
        self.asked += 1
        params = {"name": "chat", "arguments": {"prompt": prompt_of(self.asked)}}
        request = IncomingRequest(object(), params, "2026-07-28", None)
        answer = result_of(answer_to(prompt_of(self.asked)))

        async def proceed(arguments: JsonObject | None, *, opened: bool = False) -> JsonObject:
            return answer

        return await self._persisted.call(request, proceed)

    def in_code(self, tool: str) -> ToolSettings | None:
        return None

    async def entries(self, request: IncomingRequest) -> dict[str, JsonObject]:
        return {"chat": {"name": "chat", "inputSchema": _SCHEMA, "outputSchema": _OUTPUT}}

    def wire(self, answer: Any) -> JsonObject:
        return dict(answer)

    def error(self, text: str) -> JsonObject:
        raise AssertionError(text)

    def caller(self, request: IncomingRequest) -> Caller:
        return Caller()

    def reporter(self, request: IncomingRequest) -> Reporter | None:
        return None


class _Calls:
    def __init__(self, runtime: wiring.Runtime) -> None:
        self.asked = 0
        self._runtime = runtime
        shape = ToolShape(input_schema=_SCHEMA, output_schema=_OUTPUT, schema_widened=True)
        self._plan = ToolPlan(runtime, runtime.policy("chat", ToolSettings()), shape)

    async def call(self) -> object:
        self.asked += 1
        request = ToolRequest(
            tool="chat",
            arguments={"prompt": prompt_of(self.asked)},
        )
        answer = result_of(answer_to(prompt_of(self.asked)))
        call = PersistedCall(self._runtime, request, self._plan)
        await call.begin_async()
        call.arguments_for_tool()
        call.end_with_result(answer)
        await call.finish_async()
        return call.announce(answer)


class _StoreAlone:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = self._made()

    def measure(self) -> float:
        taken = []
        for _ in range(_CALLS):
            turn = next(self._turns)
            ended = turn.ended(Outcome.ANSWERED, turn.started_at, _answer_to(turn))
            started = time.perf_counter()
            self._store.begin(turn, Window(20, 8000))
            self._store.finish(ended)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken) * 1e6

    def _made(self) -> Iterator[Turn]:
        number = 0
        while True:
            number += 1
            now = datetime.now(UTC)
            yield Turn(
                id=new_turn_id(now),
                principal="local",
                continuation_id=new_continuation_id(),
                tool="chat",
                prompt=prompt_of(number),
                arguments={"prompt": prompt_of(number)},
                started_at=now,
                lease_until=now,
                stored_form=True,
            )


def _answer_to(turn: Turn) -> Answer:
    text = answer_to(turn.prompt)
    return Answer(text=text, result=result_of(text))
