"""One merging of a tool's settings, for the runtime that wants the values and for people who ask where each came from.

Knows neither files nor variables nor which settings there are: a layer is what one place sets, and a later layer wins.
"""

import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

from perdure.quick_values import frozen

__all__ = [
    "BUILT_IN",
    "IN_CODE",
    "TOP",
    "Chosen",
    "Layer",
    "Origin",
    "Place",
    "Source",
    "matching",
    "merged",
    "section",
]

Place: TypeAlias = tuple[str, ...]
"""Where a setting stands in `perdure.toml`: `("defaults", "max_turns")`, `("tools", "kimi_*", "max_turns")`."""


class Origin(StrEnum):
    """Who chose a value."""

    DEFAULT = "default"
    CODE = "code"
    FILE = "file"
    VARIABLE = "variable"


@frozen()
class Source:
    origin: Origin
    name: str
    """As a person would look for it: `[tools."kimi_*"]`, `PERDURE_DEFAULTS__MAX_TURNS`."""


TOP = "top of the file"
"""The name of what stands under no header."""

BUILT_IN = Source(Origin.DEFAULT, "built in")
IN_CODE = Source(Origin.CODE, "@persisted")


class Chosen(NamedTuple):
    value: Any
    source: Source


class Layer(NamedTuple):
    """What one place sets, by the name of the setting; and where that is, unless a variable sets it there."""

    settings: Mapping[str, Any]
    source: Source
    place: Place = ()


def merged(layers: Iterable[Layer], variables: Mapping[Place, str]) -> dict[str, Chosen]:
    """The value of each setting that any layer sets: the last one's. `variables` are those that set a place."""
    chosen: dict[str, Chosen] = {}
    for layer in layers:
        for name, value in layer.settings.items():
            variable = variables.get((*layer.place, name))
            chosen[name] = Chosen(value, Source(Origin.VARIABLE, variable) if variable else layer.source)
    return chosen


def matching(names: Iterable[str], tool: str) -> list[str]:
    """Those of `names` that mean `tool`, the most specific last.

    A name that is the tool's own, letter by letter, is above every glob. Of two globs, the one with more fixed
    characters is above the other; with as many, the one with fewer `*`; then the one that comes later. `*`, `?` and
    `[…]` are no fixed characters.
    """
    found = [name for name in names if name == tool or fnmatchcase(tool, name)]
    return sorted(found, key=lambda name: (name == tool, *_specificity(name)))  # stable: the later stays later


def section(place: Place) -> str:
    """The header under which a place stands, as TOML writes it."""
    return f"[{'.'.join(part if re.fullmatch(_BARE, part) else json.dumps(part) for part in place)}]"


# Compiled when a tool is set by name first.
_BARE = r"[A-Za-z0-9_-]+"

_SET = r"\[!?\]?[^\]]*\]"


def _specificity(glob: str) -> tuple[int, int]:
    rest = re.sub(_SET, "", glob)  # a bracket that is never closed is itself, to fnmatch as well
    stars = rest.count("*")
    return len(rest) - stars - rest.count("?"), -stars
