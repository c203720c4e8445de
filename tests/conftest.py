"""Shared by all tests: nothing here ever touches the data or the settings of whoever runs them."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.ports import Clock, Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import Settings

Activate = Callable[..., Runtime]
"""`activate(store=None, *, clock=None, **settings)` makes the runtime that serves every call until the test ends."""


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings, data and runtime of the test's own, for this process and for those it starts."""
    for name in list(os.environ):
        if name.startswith(("PERDURE_", "SUPABASE_")) or name == "USE_SUPABASE":
            monkeypatch.delenv(name)
    home = tmp_path / "perdure-home"
    home.mkdir()
    (home / "perdure.toml").touch()
    monkeypatch.setenv("PERDURE_CONFIG", str(home / "perdure.toml"))
    monkeypatch.setenv("PERDURE_DATA_DIR", str(home / "data"))
    with wiring.activated(None):  # type: ignore[arg-type]  # made anew from the settings when first asked for
        yield
        if wiring._runtime is not None:
            wiring._runtime.engine.store.close()


@pytest.fixture
def activate() -> Iterator[Activate]:
    with ExitStack() as until_the_end:

        def activate(store: Store | None = None, *, clock: Clock | None = None, **settings: Any) -> Runtime:
            made = wiring.build(Settings(**settings), store=store or MemoryStore(clock), clock=clock)
            return until_the_end.enter_context(wiring.activated(made))

        yield activate


@pytest.fixture
def runtime(activate: Activate) -> Runtime:
    """A runtime with default settings over an empty store in memory."""
    return activate()
