"""The backends that a promise is shown on: each with a database of the test's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.middleware.persistence.ports import Clock, Store
from perdure.middleware.persistence.wiring import Runtime, build
from perdure.settings import Settings
from perdure.settings_loader import load_settings

__all__ = ["Backend", "store_of_this_process"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    name: str
    environment: Mapping[str, str]
    """What tells a server process, or the command line, to use it."""

    def open(self, clock: Clock | None = None) -> Store:
        """A store of its own, as another process would have one."""
        return self.runtime(clock).engine.store

    def runtime(self, clock: Clock | None = None) -> Runtime:
        """All of it, as another process would have it."""
        named: Mapping[str, Any] = {
            name.removeprefix("PERDURE_").lower(): value for name, value in self.environment.items()
        }
        return build(Settings(**named), clock=clock)


def store_of_this_process() -> Store:
    """As the environment says: for a test that runs itself as another process."""
    return build(load_settings()).engine.store
