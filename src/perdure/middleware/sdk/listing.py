"""What an SDK asks about the `tools/list` of its servers, while settings change."""

from collections.abc import Callable
from typing import Protocol

from perdure.middleware.persistence.turn import JsonObject
from perdure.policy_sources import Source

__all__ = ["META_OPTIONS", "Listing", "follow_listings", "new_listing"]

META_OPTIONS = "perdure/options"
"""In the `_meta` of a local client's `tools/list`: it wants to know what the server's code says of its tools."""


class Listing(Protocol):
    """Of one server."""

    def amended(self, page: JsonObject, function_of: Callable[[str], object | None], by: Source) -> JsonObject: ...

    def have_changed(self) -> bool: ...

    def offers_changes(self, functions: list[object]) -> bool: ...

    def options_in_code(self, names: list[str]) -> JsonObject: ...


def follow_listings(make: Callable[[], Listing]) -> None:
    """From now on every server gets a listing of its own, made by `make`."""
    _makers[:] = [make]


def new_listing() -> Listing | None:
    return _makers[0]() if _makers else None


_makers: list[Callable[[], Listing]] = []
