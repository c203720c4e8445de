"""Every behaviour runs once in each world of this environment."""

import pytest
from seams.worlds.here import WORLDS
from seams.worlds.world import World


@pytest.fixture(params=WORLDS, ids=str)
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param.kind, request.param.way)
