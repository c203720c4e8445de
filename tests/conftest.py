"""Shared by all tests: nothing here ever touches the data or the settings of whoever runs them."""

from __future__ import annotations  # what stands under TYPE_CHECKING is not installed beside every SDK

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from backends import Backend
from longest_files import longest_first

from perdure import settings_watch
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.ports import Clock, FileStore, Store
from perdure.middleware.persistence.spool.drainer import _all_drainers
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import Settings

if TYPE_CHECKING:
    from servers.postgres_cluster import PostgresCluster
    from servers.supabase_stack import SupabaseStack

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As of a shell's background job: every server that a test starts would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

Activate = Callable[..., Runtime]
"""`activate(store=None, *, clock=None, spooled=False, file_store=None, **settings)` makes the runtime that serves every
call until the test ends."""

MakeDatabase = Callable[[], str]
"""Makes a migrated database in the Postgres of this run, and returns its URL."""

on_every_backend = pytest.mark.parametrize("backend", ["sqlite", "postgres", "supabase"], indirect=True)
"""For a test that takes `backend`: once on each that keeps what it is told."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = longest_first(items)


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings, data and runtime of the test's own, for this process and for those it starts."""
    for name in list(os.environ):
        if name.startswith(("PERDURE_", "SUPABASE_", "PG")) or name == "USE_SUPABASE":
            monkeypatch.delenv(name)
    home = tmp_path / "perdure-home"
    home.mkdir()
    (home / "perdure.toml").touch()
    monkeypatch.setenv("PERDURE_CONFIG", str(home / "perdure.toml"))
    monkeypatch.setenv("PERDURE_DATA_DIR", str(home / "data"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "user"))
    with wiring.activated(None):  # type: ignore[arg-type]  # made anew from the settings when first asked for
        yield
        for drainer in list(_all_drainers):
            drainer.stop()  # else it goes on asking a server that is there no more, beside the tests that come next
        if (made := wiring._runtime) is not None:
            if made.spool is not None:
                made.spool.close()
            made.engine.store.close()


@pytest.fixture
def activate() -> Iterator[Activate]:
    with ExitStack() as until_the_end:

        def activate(
            store: Store | None = None,
            *,
            clock: Clock | None = None,
            spooled: bool = False,
            file_store: FileStore | None = None,
            **settings: Any,
        ) -> Runtime:
            made = wiring.build(
                Settings(**{"data_dir": os.environ["PERDURE_DATA_DIR"]} | settings),
                store=store or MemoryStore(clock),
                file_store=file_store,
                clock=clock,
                spooled=spooled,
            )
            if made.spool is not None:
                until_the_end.callback(made.spool.close)
            return until_the_end.enter_context(wiring.activated(made))

        yield activate


@pytest.fixture
def runtime(activate: Activate) -> Runtime:
    """A runtime with default settings over an empty store in memory."""
    return activate()


# ── real databases ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def live_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """perdure keeps turns in memory, and sees changed settings with the next request."""
    monkeypatch.setenv("PERDURE_BACKEND", "memory")
    monkeypatch.setattr(settings_watch, "_EVERY", 0.0)
    monkeypatch.setattr(settings_watch, "_AT_REST", 0.0)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """One Postgres for the whole run, without the roles of Supabase. A test that harms it brings its own."""
    from servers.postgres_cluster import PostgresCluster

    with PostgresCluster(max_connections=250) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def make_database(postgres: PostgresCluster) -> MakeDatabase:
    from perdure.middleware.persistence.migrations import postgres as migrations

    template = postgres.create_database("migrated")
    migrations.apply(postgres.url(template), template, lambda _: None)
    numbers = itertools.count()

    def make() -> str:
        return postgres.url(postgres.create_database(f"test_{next(numbers)}", template=template))

    return make


@pytest.fixture
def database_url(make_database: MakeDatabase) -> str:
    """A migrated database of the test's own."""
    return make_database()


@pytest.fixture(scope="session")
def supabase_cluster() -> Iterator[PostgresCluster]:
    """The Postgres of Supabase's stand-ins: its roles are those of Supabase, for the whole cluster."""
    from servers.postgres_cluster import PostgresCluster

    with PostgresCluster(max_connections=250, fsync=False) as cluster:
        yield cluster


@pytest.fixture
def supabase(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    """A migrated project of the test's own: a gateway over a real Postgres."""
    from servers.supabase_stack import SupabaseStack

    with SupabaseStack(supabase_cluster) as stack:
        yield stack


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """See `on_every_backend`."""
    environment = {"PERDURE_BACKEND": request.param, "PERDURE_DATA_DIR": str(tmp_path / "data")}
    match request.param:
        case "postgres":
            environment["PERDURE_DATABASE_URL"] = request.getfixturevalue("make_database")()
        case "supabase":
            stack: SupabaseStack = request.getfixturevalue("supabase")
            environment["PERDURE_SUPABASE_URL"] = stack.url
            environment["PERDURE_SUPABASE_KEY"] = stack.secret_key
    return Backend(name=request.param, environment=environment)
