"""A turn is renewed for as long as its tool runs, together with all others, and no longer: nothing stays behind."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import Activate
from mcp.server.mcpserver import MCPServer
from mcp_wire import called, kept

from perdure import Outcome, persisted
from perdure.errors import StoreUnavailable, TurnRefused
from perdure.middleware.idempotency import turn_id_of
from perdure.middleware.meta_keys import META_IDEMPOTENCY_KEY
from perdure.middleware.persistence.ports import SystemClock
from perdure.middleware.persistence.running_turns import RunningTurns
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import Turn, Window
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings
from perdure.testing import FaultyStore
from perdure.testing.turns import a_turn

LEASE = timedelta(seconds=0.3)


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
def running(store: FaultyStore) -> RunningTurns:
    return RunningTurns(store, SystemClock(), LEASE)


def begun(store: FaultyStore, principal: str = "alice") -> Turn:
    now = datetime.now(UTC)
    turn = replace(a_turn(continuation_id="c", principal=principal), started_at=now, lease_until=now + LEASE)
    store.begin(turn, Window(0, 0))
    return turn


def lease_of(store: FaultyStore, turn: Turn) -> datetime:
    found = store.turns(turn.principal, "c", limit=1000)
    return next(one.lease_until for one in found if one.id == turn.id)


def threads_of_ours() -> int:
    return sum(thread.name == "perdure-leases" for thread in set(threading.enumerate()) - _earlier)


_earlier: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _other_tests_threads() -> None:
    _earlier.clear()
    _earlier.update(threading.enumerate())


def in_time(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# ── while it runs ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_turn_is_running_for_many_leases_and_interrupted_one_after_nobody_holds_it(
    running: RunningTurns, store: FaultyStore
) -> None:
    turn = begun(store)
    held = running.hold(turn)
    assert in_time(lambda: lease_of(store, turn) > turn.started_at + 4 * LEASE)
    held.let_go()
    assert in_time(lambda: store.turns("alice", "c")[0].seen_at(datetime.now(UTC)).outcome is Outcome.INTERRUPTED)


def test_all_turns_of_all_principals_are_renewed_in_one_round_trip(
    running: RunningTurns, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, together = store.renew, list[int]()

    def counting(turns: Any, lease_until: datetime) -> None:
        together.append(sum(map(len, turns.values())))
        renew(turns, lease_until)

    monkeypatch.setattr(store, "renew", counting)
    turns = [begun(store, f"user {number % 7}") for number in range(50)]
    all_held = [running.hold(turn) for turn in turns]
    assert in_time(lambda: 50 in together)
    assert in_time(lambda: all(lease_of(store, turn) > turn.lease_until for turn in turns))
    assert running.count == len(all_held) == 50


def test_a_turn_that_is_over_at_the_first_look_is_never_renewed(running: RunningTurns, store: FaultyStore) -> None:
    for _ in range(20):
        running.hold(begun(store)).let_go()
    assert in_time(lambda: threads_of_ours() == 0)
    assert store.calls("renew") == 0


def test_a_turn_that_has_only_just_begun_is_left_for_the_next_look(store: FaultyStore) -> None:
    running = RunningTurns(store, SystemClock(), timedelta(hours=1))
    held = running.hold(begun(store))
    pause = running.renew()
    assert (pause, store.calls("renew")) == (1200, 0)
    held.let_go()
    assert running.renew() is None


def test_one_thread_looks_after_all_ends_when_nothing_runs_and_starts_again(
    running: RunningTurns, store: FaultyStore
) -> None:
    for _ in range(2):
        several = [running.hold(begun(store)) for _ in range(5)]
        assert threads_of_ours() == 1
        for held in several:
            held.let_go()
        assert in_time(lambda: threads_of_ours() == 0)


def test_a_store_that_is_away_is_asked_again_soon_and_that_is_said_once(
    running: RunningTurns, store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    turn = begun(store)
    store.fail("renew", error=StoreUnavailable("It is away.", remedy="bring it back."))
    held = running.hold(turn)
    assert in_time(lambda: store.calls("renew") >= 5)
    assert lease_of(store, turn) == turn.lease_until
    [said] = [record.getMessage() for record in caplog.records]
    assert "The leases of 1 running turn could not be renewed (It is away.)" in said
    assert "Remedy: bring it back." in said
    store.heal()
    assert in_time(lambda: lease_of(store, turn) > turn.lease_until)
    held.let_go()


def test_an_error_that_nobody_expects_ends_no_renewing(running: RunningTurns, store: FaultyStore) -> None:
    turn = begun(store)
    store.fail("renew", error=RuntimeError("a fault"), times=2)
    held = running.hold(turn)
    assert in_time(lambda: lease_of(store, turn) > turn.lease_until)
    held.let_go()


def test_a_principal_that_the_store_refuses_holds_up_no_other(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew = store.inner.renew

    def refusing(turns: Any, lease_until: datetime) -> None:
        if "mallory" in turns:
            raise TurnRefused("Not this one.", remedy="none.")
        renew(turns, lease_until)

    monkeypatch.setattr(store.inner, "renew", refusing)
    running = RunningTurns(store, SystemClock(), LEASE)
    turns = [begun(store, name) for name in ("alice", "mallory", "bob")]
    all_held = [running.hold(turn) for turn in turns]
    assert in_time(lambda: all(lease_of(store, turn) > turn.lease_until for turn in (turns[0], turns[2])))
    assert lease_of(store, turns[1]) == turns[1].lease_until
    assert len(all_held) == 3


# ── what must not stay behind ────────────────────────────────────────────────────────────────────────────────


def test_a_turn_that_everybody_has_forgotten_is_not_renewed(running: RunningTurns, store: FaultyStore) -> None:
    running.hold(begun(store))  # as by a call that was torn down on its way
    assert running.count == 0


def test_who_renews_ends_with_the_runtime(store: FaultyStore) -> None:
    running = RunningTurns(store, SystemClock(), timedelta(hours=1))
    held = running.hold(begun(store))
    assert in_time(lambda: threads_of_ours() == 1)
    del running
    gc.collect()
    assert in_time(lambda: threads_of_ours() == 0)
    held.let_go()


def test_without_a_thread_to_be_had_the_call_goes_on_and_the_next_one_asks_again(
    running: RunningTurns, store: FaultyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    turn = begun(store)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        held = running.hold(turn)
    assert "can't start new thread" in caplog.text
    another = running.hold(begun(store))
    assert in_time(lambda: lease_of(store, turn) > turn.lease_until)
    held.let_go()
    another.let_go()


def test_a_forked_child_renews_its_own_turns_and_none_of_its_parents(running: RunningTurns, store: FaultyStore) -> None:
    held = running.hold(begun(store))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            own = begun(store)
            mine = running.hold(own)
            if running.count == 1 and in_time(lambda: lease_of(store, own) > own.lease_until):
                mine.let_go()
                held.let_go()
                status = running.count
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert running.count == 1
    held.let_go()


def test_an_interpreter_ends_at_once_though_turns_run_and_the_store_hangs() -> None:
    script = """
import threading
from datetime import timedelta
from perdure.middleware.persistence.ports import SystemClock
from perdure.middleware.persistence.running_turns import RunningTurns
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.testing import FaultyStore
from perdure.testing.turns import a_turn
store = FaultyStore(MemoryStore())
hang = store.hang("renew")
running = RunningTurns(store, SystemClock(), timedelta(seconds=0.1))
held = running.hold(a_turn(continuation_id="c"))
assert hang.entered.wait(30)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


# ── the calls ────────────────────────────────────────────────────────────────────────────────────────────────


async def _answers(prompt: str) -> str:
    return prompt


async def _fails(prompt: str) -> str:
    raise ValueError(prompt)


def _away(store: FaultyStore, _runtime: Runtime) -> None:
    store.fail("begin", "finish")


def _runs_elsewhere(store: FaultyStore, _runtime: Runtime) -> None:
    now = datetime.now(UTC)
    turn = replace(a_turn("x", continuation_id="c", principal="local", tool="tool"), id=turn_id_of("local", "key", 0))
    store.begin(replace(turn, started_at=now, lease_until=now + timedelta(hours=1)), Window(0, 0))


@pytest.mark.parametrize("prepare", [lambda _store, _runtime: None, _away, _runs_elsewhere])
@pytest.mark.parametrize("body", [_answers, _fails])
async def test_a_call_holds_its_turn_while_its_tool_runs_and_nothing_when_it_is_over(
    body: Callable[..., Any],
    prepare: Callable[[FaultyStore, Runtime], None],
    activate: Activate,
    store: FaultyStore,
    tmp_path: Path,
) -> None:
    replay = ToolSettings(replay=prepare is _runs_elsewhere)
    runtime = activate(store, spooled=prepare is _away, data_dir=tmp_path / "data", defaults=replay)
    held: list[int] = []

    async def tool(prompt: str) -> Any:
        held.append(runtime.engine.running.count)
        return await body(prompt)

    server = MCPServer("leases")
    server.tool(name="tool", structured_output=False)(persisted(tool))
    prepare(store, runtime)
    await called(server, "tool", {"prompt": "x", "continuation_id": "c"}, {META_IDEMPOTENCY_KEY: "key"})
    assert held == ([] if prepare is _runs_elsewhere else [1])
    assert runtime.engine.running.count == 0


async def test_a_call_that_is_cancelled_holds_nothing(activate: Activate) -> None:
    runtime = activate()
    server = MCPServer("leases")
    began = anyio.Event()

    @server.tool()
    @persisted
    async def slow(prompt: str) -> str:
        began.set()
        await anyio.sleep_forever()
        return prompt

    async with anyio.create_task_group() as group:
        group.start_soon(called, server, "slow", {"prompt": "x"})
        await began.wait()
        assert runtime.engine.running.count == 1
        group.cancel_scope.cancel()
    assert [turn.outcome for turn in kept(runtime)] == [Outcome.CANCELLED]
    assert runtime.engine.running.count == 0


async def test_a_turn_that_began_while_the_store_was_away_is_renewed_once_it_is_there(
    activate: Activate, store: FaultyStore, tmp_path: Path
) -> None:
    runtime = activate(store, spooled=True, data_dir=tmp_path / "data", lease_seconds=1.0)
    store.fail("begin", times=1)
    seen: list[datetime] = []

    async def slow(prompt: str) -> str:
        assert runtime.spool is not None
        began = datetime.now(UTC)
        runtime.spool.wake()
        with anyio.fail_after(30):
            while not (turns := kept(runtime)) or turns[0].lease_until < began + timedelta(seconds=1.5):
                await anyio.sleep(0.02)
        seen.append(turns[0].lease_until)
        return prompt

    server = MCPServer("leases")
    server.tool()(persisted(slow))
    result = await called(server, "slow", {"prompt": "x"})
    assert result["_meta"]["perdure/deferred"] is True
    assert len(seen) == 1
    assert in_time(lambda: [turn.outcome for turn in kept(runtime)] == [Outcome.ANSWERED])
