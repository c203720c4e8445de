"""A spool of the test's own before a store in memory that can be told to fail."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from spool.draining import Draining, Hours

from perdure import Turn
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.spool import Spool, delivery, drainer, leases
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.testing import FaultyStore, FrozenClock
from perdure.testing.turns import a_turn, answered

MakeSpool = Callable[..., Spool]


class NoPause(Breaker):
    """For tests that do not wait."""

    def __init__(self) -> None:
        super().__init__(failures=3, first_pause=0.01, longest_pause=0.02)


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore(FrozenClock()))


@pytest.fixture
def file_store(tmp_path: Path) -> LocalFileStore:
    return LocalFileStore(tmp_path / "kept", "mcp-files")


@pytest.fixture
def make_spool(tmp_path: Path, store: FaultyStore, file_store: LocalFileStore) -> Iterator[MakeSpool]:
    made: list[Spool] = []

    def make(
        store: Store = store, destination: str = "here", file_store: FileStore = file_store, **options: Any
    ) -> Spool:
        spool = Spool(
            tmp_path / "spool",
            destination,
            store,
            file_store,
            FrozenClock(),
            **{"max_bytes": 10_000_000, "breaker": NoPause(), "file_breaker": NoPause()} | options,
        )
        made.append(spool)
        return spool

    yield make
    store.heal()
    for spool in made:
        spool.close()


@pytest.fixture
def spool(make_spool: MakeSpool) -> Spool:
    return make_spool()


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    made = Hours()
    """No time passes by itself for whoever sends what waits."""
    for module in (drainer, delivery, leases):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def draining(tmp_path: Path, hours: Hours) -> Iterator[Draining]:
    made = Draining(tmp_path, hours)
    yield made
    made.close()


def an_answered_turn(prompt: str, continuation_id: str = "c", **changes: Any) -> Turn:
    return answered(a_turn(prompt, continuation_id=continuation_id, **changes), prompt.upper())


def prompts(store: Store, continuation_id: str = "c", principal: str = "alice") -> list[str]:
    return [turn.prompt for turn in store.turns(principal, continuation_id)]
