"""The stores over Supabase keep the contracts of all stores.

Through a gateway over a real Postgres; or, by `make test-supabase`, on a project that the environment names.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers.supabase_stack import SupabaseStack

from perdure.errors import StoreMisconfigured
from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.testing import FileStoreContract, GroupingStoreContract, StoreContract
from perdure.testing.turns import answered

# Before a fixture takes them away: no other test may ever reach somebody's project.
_ENVIRONMENT = dict(os.environ)


@dataclass(frozen=True)
class Project:
    url: str
    key: str
    anon_key: str
    bucket: str = "mcp-files"


class TestSupabaseStore(StoreContract, GroupingStoreContract):
    project: Project

    def make_store(self, clock: Clock, folder: Path) -> SupabaseStore:
        return SupabaseStore(SupabaseApi(self.project.url, self.project.key), clock, timeout=30)

    def test_a_conversation_of_10_000_messages_is_read_whole(self) -> None:
        """A gateway cuts what is returned as rows after 1,000 of them, without a word."""
        with ThreadPoolExecutor(8) as pool:
            turns = [answered(self.turn(f"prompt {number}"), f"answer {number}") for number in range(5_000)]
            list(pool.map(self.store.finish, turns))
        kept = self.store.turns(self.principal, self.id, limit=10_000)
        assert [turn.place for turn in kept] == list(range(1, 5_001))
        assert {turn.prompt for turn in kept} == {turn.prompt for turn in turns}
        assert all(turn.answer and turn.answer.text == turn.prompt.replace("prompt", "answer") for turn in kept)

    def test_the_anon_key_reaches_nothing(self) -> None:
        self.tell("private")
        anybody = SupabaseStore(SupabaseApi(self.project.url, self.project.anon_key), self.clock)
        with pytest.raises(StoreMisconfigured):
            anybody.turns(self.principal, self.id)
        with pytest.raises(StoreMisconfigured):
            anybody.conversations(None)
        anybody.close()


class TestSupabaseFileStore(FileStoreContract):
    project: Project

    def make_file_store(self, folder: Path) -> SupabaseFileStore:
        api = SupabaseApi(self.project.url, self.project.key)
        return SupabaseFileStore(api, self.project.bucket, folder)


@pytest.fixture(scope="module", autouse=True)
def _one_project_for_all(request: pytest.FixtureRequest) -> Iterator[None]:
    if _is_real():
        found = (_ENVIRONMENT[name] for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_ANON_KEY"))
        _use(Project(*found))
        yield
        return
    with SupabaseStack(request.getfixturevalue("supabase_cluster")) as stack:
        _use(Project(stack.url, stack.service_key, stack.anon_key))
        yield


def _is_real() -> bool:
    return _ENVIRONMENT.get("REAL_SUPABASE") == "1"


def _use(project: Project) -> None:
    TestSupabaseStore.project = TestSupabaseFileStore.project = project
