"""The servers that migrations are shown on."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from postgres.databases import Database, Functions
from servers.postgres_cluster import PostgresCluster

NewDatabase = Callable[[], Database]
"""Makes an empty database that perdure has not seen."""


@pytest.fixture(scope="session")
def plain() -> Iterator[PostgresCluster]:
    """A Postgres without Supabase's roles. It makes many databases, and none of them needs to survive the power."""
    with PostgresCluster(fsync=False) as cluster:
        yield cluster
        cluster.kill()  # rather than wait until it has put away what is removed next


@pytest.fixture
def new_database(plain: PostgresCluster) -> NewDatabase:
    return lambda: Database.new(plain)


@pytest.fixture
def database(new_database: NewDatabase) -> Database:
    """An empty database of the test's own."""
    return new_database()


@pytest.fixture(scope="session")
def template(plain: PostgresCluster) -> Database:
    database = Database.new(plain)
    database.migrate()
    return database


@pytest.fixture
def migrated(plain: PostgresCluster, template: Database) -> Database:
    """A migrated database of the test's own."""
    return Database.new(plain, options=f"template {template.name}")


@pytest.fixture(scope="session")
def migrated_schema(template: Database) -> str:
    """The schema of a database that was empty before."""
    return template.schema()


@pytest.fixture(scope="session")
def supabase() -> Iterator[PostgresCluster]:
    """A Postgres with the roles of a Supabase project, whose own user, `project`, is no superuser."""
    with PostgresCluster(fsync=False) as cluster:
        cluster.execute("""
            create role anon nologin noinherit;
            create role authenticated nologin noinherit;
            create role service_role nologin noinherit bypassrls;
            create role authenticator login noinherit password 'secret';
            grant anon, authenticated, service_role to authenticator;
            create role supabase_storage_admin nologin noinherit createrole;
            create role project login createrole createdb password 'secret';
            grant anon, authenticated, service_role to project;
        """)
        yield cluster
        cluster.kill()


@pytest.fixture(scope="session")
def project(supabase: PostgresCluster) -> Database:
    """A migrated Supabase project that tests share: each has a principal of its own. Seen by its owner."""
    database = Database.new(supabase, owner="project")
    database.execute("grant usage on schema public to anon, authenticated, service_role")
    owned = database.seen_by("project", "secret")
    owned.migrate()
    return owned


@pytest.fixture(params=["service_role", "authenticated"])
def mine(request: pytest.FixtureRequest, project: Database) -> Iterator[Functions]:
    """The functions for a principal: once called with the service key, which is trusted, once with a token."""
    functions = Functions(project, request.param, f"alice-{uuid.uuid4()}")
    yield functions
    functions.close()


@pytest.fixture
def server(project: Database) -> Iterator[Functions]:
    """The functions as a server calls them, with the service key, in the same database."""
    functions = Functions(project, "service_role", f"bob-{uuid.uuid4()}")
    yield functions
    functions.close()
