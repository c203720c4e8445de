"""A stdio server of the suite's, as a program: `python stdio_server.py KIND WAY MODULE:TOOLBOX`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from seams.worlds.here import kind_named
from seams.worlds.world import Way, World, toolbox_named

if __name__ == "__main__":
    kind, way, toolbox = sys.argv[1:]
    world = World(kind_named(kind), Way(way))
    world.kind.run_on_stdio(world.server(toolbox_named(toolbox)))
