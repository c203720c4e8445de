"""Every behaviour runs once in each world of this environment."""

import platform
from collections.abc import Iterator

import pytest
from seams.worlds.here import WORLDS
from seams.worlds.world import World


@pytest.fixture(params=WORLDS, ids=str)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.param.kind, request.param.way)
    yield world
    # For the table in docs/sdks.md.
    about = {"sdk": world.kind.sdk, "python": platform.python_version(), "world": str(world)}
    request.node.user_properties += about.items()
    request.node.user_properties += [("limit", f"{limit.value} | {world.limits[limit]}") for limit in world.noted]
