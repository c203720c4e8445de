"""The memory store keeps the contract, for as long as it lives; so does a `FaultyStore` that has no faults."""

from pathlib import Path

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.testing import FaultyStore, StoreContract


class TestMemoryStore(StoreContract):
    outlives_close = False

    def make_store(self, clock: Clock, folder: Path) -> MemoryStore:
        return MemoryStore(clock)


class TestFaultyStoreWithoutFaults(StoreContract):
    outlives_close = False

    def make_store(self, clock: Clock, folder: Path) -> FaultyStore:
        return FaultyStore(MemoryStore(clock))
