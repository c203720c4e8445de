"""The worlds of this environment: those of the SDKs that are installed."""

from importlib.metadata import version

from seams.worlds.world import ServerKind, Way, World

__all__ = ["WORLDS", "kind_named"]


def _kinds() -> list[ServerKind]:
    if version("mcp").startswith("1."):
        from seams.worlds import mcp_v1

        return list(mcp_v1.KINDS)
    from seams.worlds import mcp_v2

    return list(mcp_v2.KINDS)


KINDS = _kinds()

WORLDS = [World(kind, way) for kind in KINDS for way in (Way.DECORATOR, Way.HOOK)]


def kind_named(name: str) -> ServerKind:
    return next(kind for kind in KINDS if kind.name == name)
