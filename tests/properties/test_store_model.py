"""Whatever is asked of a store, in whatever order, it answers as the memory store does. `make soak-7` asks longer."""

from collections.abc import Iterator

import pytest
from conftest import MakeDatabase
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from properties.two_stores import PostgresAndMemory, SqliteAndMemory, SupabaseAndMemory
from servers.supabase_stack import SupabaseStack


@pytest.fixture(scope="module", autouse=True)
def _one_database_for_all(make_database: MakeDatabase) -> Iterator[None]:
    PostgresAndMemory.url = make_database()
    yield
    PostgresAndMemory.url = ""


TestSqliteIsWhatMemoryIs = SqliteAndMemory.TestCase
TestSqliteIsWhatMemoryIs.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)

TestPostgresIsWhatMemoryIs = PostgresAndMemory.TestCase
TestPostgresIsWhatMemoryIs.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_supabase_is_what_memory_is(supabase: SupabaseStack) -> None:
    SupabaseAndMemory.stack = supabase
    run_state_machine_as_test(
        SupabaseAndMemory, settings=settings(max_examples=10, stateful_step_count=30, deadline=None)
    )
