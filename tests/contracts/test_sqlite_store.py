"""The SQLite store keeps the contract."""

from pathlib import Path

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.testing import GroupingStoreContract, StoreContract


class TestSqliteStore(GroupingStoreContract, StoreContract):
    def make_store(self, clock: Clock, folder: Path) -> SqliteStore:
        return SqliteStore(folder / "perdure.db", clock)
