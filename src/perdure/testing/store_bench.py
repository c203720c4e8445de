"""What the tests of a store stand on: a store of their own for each, and the words in which they are written."""
# ruff: noqa: S101

import json
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from perdure.errors import TurnConflict
from perdure.middleware.persistence.ports import Clock, Store
from perdure.middleware.persistence.turn import Json, Turn, Window
from perdure.testing.clocks import FrozenClock
from perdure.testing.turns import a_turn, answered

__all__ = ["WIDE", "StoreBench", "as_kept", "at_once", "exactly"]

T = TypeVar("T")

WIDE = Window(turns=1000, tokens=1_000_000)
"""All the history there is in a test."""


class StoreBench:
    def make_store(self, clock: Clock, folder: Path) -> Store:
        """A store that keeps its files, if it has any, in `folder`."""
        raise NotImplementedError

    def setup_method(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="perdure-contract-")
        self.folder = Path(self._temporary.name)
        self.clock = FrozenClock()
        self.principal = f"alice-{uuid.uuid4()}"
        self.id = f"conversation-{uuid.uuid4()}"
        self.store = self.make_store(self.clock, self.folder)

    def teardown_method(self) -> None:
        self.store.close()
        self._temporary.cleanup()

    def turn(self, prompt: str = "", **changes: Any) -> Turn:
        return a_turn(prompt, **{"principal": self.principal, "continuation_id": self.id} | changes)

    def tell(self, *prompts: str, continuation_id: str | None = None) -> None:
        """One answered turn after the other."""
        for prompt in prompts:
            turn = self.turn(prompt, continuation_id=continuation_id or self.id)
            self.store.begin(turn, WIDE)
            self.store.finish(answered(turn, f"answer to {prompt}"))

    def kept(self) -> list[Turn]:
        return [as_kept(turn) for turn in self.store.turns(self.principal, self.id, limit=1000)]

    def only(self) -> Turn:
        (turn,) = self.kept()
        return turn

    def prompts(self) -> list[str]:
        return [turn.prompt for turn in self.kept()]

    def conflicts(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except TurnConflict:
            return True
        return False


def as_kept(turn: Turn) -> Turn:
    """Without what only matters while a turn is begun, and which a store need not give back."""
    return replace(turn, minted=False, adopt=True, fresh_id="", expire_after=None, files=(), stored_form=True)


def exactly(value: Json) -> str:
    """Two JSON values are the same if these texts are: `==` takes -0.0 for 0, 1.0 for 1, and any order of keys."""
    return json.dumps(value)


def at_once(work: Callable[[int], T], numbers: Iterable[int]) -> Sequence[T]:
    """What `work` returned for each number, all of them started together in threads of their own."""
    wanted = list(numbers)
    start = threading.Barrier(len(wanted))
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            results[number] = work(number)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a call has not come back within a minute"
    return [results[number] for number in wanted]
