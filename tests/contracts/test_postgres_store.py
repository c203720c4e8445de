"""The Postgres store keeps the contract."""

from pathlib import Path

import pytest
from conftest import MakeDatabase

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.testing import GroupingStoreContract, StoreContract


class TestPostgresStore(StoreContract, GroupingStoreContract):
    url: str

    def make_store(self, clock: Clock, folder: Path) -> PostgresStore:
        return PostgresStore(self.url, clock)


@pytest.fixture(scope="module", autouse=True)
def _one_database_for_all(make_database: MakeDatabase) -> None:
    TestPostgresStore.url = make_database()
