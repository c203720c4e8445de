"""The worlds of this environment: those of the SDKs that are installed."""

from importlib.metadata import version
from importlib.util import find_spec

from seams.worlds.world import ServerKind, Way, World

__all__ = ["WORLDS", "kind_named"]


def _kinds() -> list[ServerKind]:
    if version("mcp").startswith("1."):
        from seams.worlds import mcp_v1

        return list(mcp_v1.KINDS)
    if find_spec("fastmcp") is not None:
        from seams.worlds import fastmcp_v4

        return list(fastmcp_v4.KINDS)
    from seams.worlds import mcp_v2

    return list(mcp_v2.KINDS)


KINDS = _kinds()

WORLDS = [World(kind, way) for kind in KINDS for way in Way if way is not Way.BARE]


def kind_named(name: str) -> ServerKind:
    return next(kind for kind in KINDS if kind.name == name)
