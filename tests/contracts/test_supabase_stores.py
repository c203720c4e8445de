"""The stores over Supabase keep the contracts of all stores, through a gateway over a real Postgres."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.testing import FileStoreContract, StoreContract


class TestSupabaseStore(StoreContract):
    stack: SupabaseStack

    def make_store(self, clock: Clock, folder: Path) -> SupabaseStore:
        return SupabaseStore(SupabaseApi(self.stack.url, self.stack.service_key), clock)


class TestSupabaseFileStore(FileStoreContract):
    stack: SupabaseStack

    def make_file_store(self, folder: Path) -> SupabaseFileStore:
        return SupabaseFileStore(SupabaseApi(self.stack.url, self.stack.service_key), "mcp-files", folder)


@pytest.fixture(scope="module", autouse=True)
def _one_stack_for_all(supabase_cluster: PostgresCluster) -> Iterator[None]:
    with SupabaseStack(supabase_cluster) as stack:
        TestSupabaseStore.stack = TestSupabaseFileStore.stack = stack
        yield
