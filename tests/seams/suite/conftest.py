"""Every behaviour runs once in each world of this environment."""

import os
import platform
from collections.abc import Iterator

import pytest
from seams.suite.representative import KINDS, REPRESENTATIVE
from seams.worlds.here import WORLDS
from seams.worlds.open_servers import OPEN_SERVERS
from seams.worlds.world import World


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "in_this_process: about servers in the test's own process, and no others")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        worlds = [world for world in WORLDS if not world.is_process or _runs_in_processes(metafunc, world)]
        metafunc.parametrize("world", worlds, indirect=True, ids=str)


def _runs_in_processes(metafunc: pytest.Metafunc, world: World) -> bool:
    if metafunc.definition.get_closest_marker("in_this_process") is not None:
        return False
    if os.environ.get("EVERY_BEHAVIOUR"):
        return True
    return world.kind.name in KINDS and metafunc.function.__name__ in REPRESENTATIVE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one server process can serve comes in a row, on one worker: see `open_servers`. Files stay in order."""
    place = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (place[item.path], *_process_of(item)))
    for item in items:
        if any(process := _process_of(item)):
            item.add_marker(pytest.mark.xdist_group(" ".join((item.path.stem, *process))))


def _process_of(item: pytest.Item) -> tuple[str, str]:
    """The world, and the shape whose toolbox it serves; empty where servers are in this process."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    world = parameters.get("world")
    if not isinstance(world, World) or not world.is_process:
        return "", ""
    return str(world), str(parameters.get("shape", ""))


@pytest.fixture(scope="session", autouse=True)
def _open_servers() -> Iterator[None]:
    yield
    OPEN_SERVERS.close()


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.param.kind, request.param.way)
    yield world
    # For the table in docs/sdks.md.
    about = {"sdk": world.kind.sdk, "python": platform.python_version(), "world": str(world)}
    request.node.user_properties += about.items()
    request.node.user_properties += [("limit", f"{limit.value} | {world.limits[limit]}") for limit in world.noted]
