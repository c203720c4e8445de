"""Those whose calls were sent together wake each other one by one; who is gone by then keeps nobody from waking."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from perdure.middleware.persistence.stores import grouped_calls
from perdure.middleware.persistence.stores.grouped_calls import GroupedCalls
from perdure.middleware.persistence.turn import JsonObject

LONG = 30.0


class Gate:
    """What is sent waits until it is let through."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self._open = threading.Semaphore(0)

    def __call__(self, given: Sequence[JsonObject], *, deadline: float, again: bool) -> Mapping[str, JsonObject]:
        if time.monotonic() >= deadline:
            raise TimeoutError
        self.sent.append([one["turn_id"] for one in given])
        assert self._open.acquire(timeout=LONG)
        return {one["turn_id"]: {"reply to": one["turn_id"]} for one in given}

    def let_through(self) -> None:
        self._open.release()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.mark.parametrize("interrupted", [False, True], ids=["its time is over", "Ctrl-C"])
def test_one_that_waits_no_longer_keeps_nobody_behind_it_from_waking(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, *, interrupted: bool
) -> None:
    monkeypatch.setattr(grouped_calls, "_PATIENCE", LONG)
    gate = Gate()
    calls = GroupedCalls(gate, under_way=1)
    if interrupted:

        def interrupt(_call: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(calls, "_leave", interrupt)

    def call(name: str, seconds: float = LONG) -> JsonObject | None:
        return calls.call({"turn_id": name}, 1, time.monotonic() + seconds)

    first = pool.submit(call, "first")
    wait_until(lambda: len(gate.sent) == 1)
    waiting = []
    for number, name in enumerate(("leads", "behind them", "last", "gone", "gone as well")):
        waiting.append(pool.submit(call, name, 1.0 if "gone" in name else LONG))
        wait_until(lambda number=number: len(calls._waiting) == number + 1)  # type: ignore[misc]
    calls._waiting.extend([calls._waiting[1], calls._waiting[2]])  # as if these had come last
    for _ in range(2):
        del calls._waiting[1]
    gate.let_through()
    wait_until(lambda: len(gate.sent) == 2)
    leads, behind, last, *gone = waiting
    assert {type(one.exception(LONG)) for one in gone} == {KeyboardInterrupt if interrupted else TimeoutError}
    gate.let_through()
    assert [one.result(LONG / 3) for one in (first, leads, behind, last)] == [
        {"reply to": name} for name in ("first", "leads", "behind them", "last")
    ]
    assert gate.sent[1] == ["leads", "gone", "gone as well", "behind them", "last"]
    assert calls._under_way == 0
