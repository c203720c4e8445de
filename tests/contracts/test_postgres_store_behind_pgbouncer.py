"""The Postgres store keeps the contract behind a pooler, too, which shares three servers among all clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeDatabase
from servers.pgbouncer import PgBouncer
from servers.postgres_cluster import PostgresCluster

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.testing import StoreContract


class TestPostgresStoreBehindPgBouncer(StoreContract):
    url: str

    def make_store(self, clock: Clock, folder: Path) -> PostgresStore:
        return PostgresStore(self.url, clock)


@pytest.fixture(scope="module", autouse=True)
def _one_database_for_all(postgres: PostgresCluster, make_database: MakeDatabase) -> Iterator[None]:
    with PgBouncer(postgres, pool_size=3) as bouncer:
        TestPostgresStoreBehindPgBouncer.url = bouncer.url(make_database().rpartition("/")[2])
        yield
