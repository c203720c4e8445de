"""Those whose calls were sent together wake each other one by one; who is gone by then keeps nobody from waking."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import NoneType

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


@pytest.mark.parametrize(
    ("how", "error"),
    [("its time is over", TimeoutError), ("just before it would be woken", NoneType), ("Ctrl-C", KeyboardInterrupt)],
)
def test_one_that_waits_no_longer_keeps_nobody_behind_it_from_waking(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, how: str, error: type[BaseException | None]
) -> None:
    monkeypatch.setattr(grouped_calls, "_PATIENCE", LONG)
    gate = Gate()
    calls = GroupedCalls(gate, under_way=1)

    def call(name: str, seconds: float = LONG) -> JsonObject | None:
        return calls.call({"turn_id": name}, 1, time.monotonic() + seconds)

    first = pool.submit(call, "first")
    wait_until(lambda: len(gate.sent) == 1)
    waiting = []
    for number, name in enumerate(("leads", "behind it", "last", "gone")):
        waiting.append(pool.submit(call, name, 1.0 if name == "gone" else LONG))
        wait_until(lambda number=number: len(calls._waiting) == number + 1)  # type: ignore[misc]
    calls._waiting.insert(1, calls._waiting.pop())  # as if it had come second
    leads, behind, last, gone = waiting
    leave, wake_after = calls._leave, calls._wake_after
    waking: list[str] = []

    def leaving(one: "grouped_calls._Call") -> None:
        if how == "Ctrl-C":
            raise KeyboardInterrupt
        leave(one)
        if how == "just before it would be woken":
            gate.let_through()
            behind.result(LONG / 3)

    def wakes(one: "grouped_calls._Call") -> None:
        waking.append(one.given[0]["turn_id"])
        wake_after(one)

    monkeypatch.setattr(calls, "_leave", leaving)
    monkeypatch.setattr(calls, "_wake_after", wakes)
    gate.let_through()
    wait_until(lambda: len(gate.sent) == 2)
    assert isinstance(gone.exception(LONG), error)
    gate.let_through()
    assert [one.result(LONG / 3) for one in (first, leads, behind, last)] == [
        {"reply to": name} for name in ("first", "leads", "behind it", "last")
    ]
    assert "gone" not in waking, "somebody else woke whoever stood behind it"
    assert gate.sent[1] == ["leads", "gone", "behind it", "last"]
    assert calls._under_way == 0
