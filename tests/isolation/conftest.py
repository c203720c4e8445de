"""A project like one of Supabase's, with three tenants in it, made once and copied for whoever changes it."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from isolation.supabase_like import Api, SupabaseLike
from isolation.tenants import Tenant, settle
from servers.postgres_cluster import PostgresCluster


@dataclass(frozen=True)
class Settled:
    """A database in which alice, bob and mallory have conversations and files."""

    project: SupabaseLike
    database: str
    tenants: dict[str, Tenant]

    @property
    def alice(self) -> Tenant:
        return self.tenants["alice"]


@pytest.fixture(scope="session")
def supabase() -> Iterator[SupabaseLike]:
    settings = {"synchronous_commit": False, "full_page_writes": False, "autovacuum": False, "scram_iterations": 1}
    with PostgresCluster(max_connections=50, fsync=False, settings=settings) as cluster:
        cluster.execute(f"alter role postgres password '{cluster.password}'")  # again, with so few iterations
        yield SupabaseLike(cluster)


@pytest.fixture(scope="session")
def settled_template(supabase: SupabaseLike) -> Settled:
    """Never connected to by a test, since it is copied."""
    database = supabase.new_project()
    return Settled(supabase, database, settle(supabase, database, "alice", "bob", "mallory"))


@pytest.fixture(scope="module")
def settled(settled_template: Settled) -> Iterator[Settled]:
    """For the tests of one file together: attackers add to what is theirs, and are refused everything else."""
    yield from _copy(settled_template)


@pytest.fixture
def settled_anew(settled_template: Settled) -> Iterator[Settled]:
    """For a test that takes a wall down."""
    yield from _copy(settled_template)


@pytest.fixture
def api(settled: Settled) -> Iterator[Api]:
    """PostgREST's connection to `settled`."""
    with settled.project.api(settled.database) as api:
        yield api


def _copy(template: Settled) -> Iterator[Settled]:
    database = template.project.copy_of(template.database)
    yield Settled(template.project, database, template.tenants)
    template.project.cluster.drop_database(database)
