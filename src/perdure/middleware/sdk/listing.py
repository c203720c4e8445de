"""What an SDK asks about the `tools/list` of its servers, while settings change."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import anyio
import anyio.lowlevel

from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.persistence.wiring import runtime
from perdure.policy_sources import Source

__all__ = ["LONGEST_NOTICE", "Listing", "follow_listings", "new_listing", "tell_clients"]


class Listing(Protocol):
    """Of one server."""

    def amended(self, page: JsonObject, function_of: Callable[[str], object | None], by: Source) -> JsonObject: ...

    def have_changed(self) -> bool: ...

    def offers_changes(self, functions: list[object]) -> bool: ...

    def options_in_code(self, names: list[str]) -> JsonObject: ...


LONGEST_NOTICE = 1.0
"""Seconds that clients have to take the notice: one that does not read may not hold up the call of another."""


async def tell_clients(open_: MutableMapping[Any, object], tell: Callable[[Any], Awaitable[None]]) -> None:
    """Tell whoever is open on this event loop that its list has changed. `open_`: the loop that serves each.

    Those that have gone are taken out. Raises nothing but the caller's own cancellation.
    """

    async def told(client: Any) -> None:
        try:
            await tell(client)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            open_.pop(client, None)
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            runtime().say("tools.change_not_told", error)

    here = anyio.lowlevel.current_token()
    with anyio.move_on_after(LONGEST_NOTICE):
        async with anyio.create_task_group() as group:
            for client, loop in list(open_.items()):
                if loop == here:
                    group.start_soon(told, client)


def follow_listings(make: Callable[[], Listing]) -> None:
    """From now on every server gets a listing of its own, made by `make`."""
    _makers[:] = [make]


def new_listing() -> Listing | None:
    return _makers[0]() if _makers else None


_makers: list[Callable[[], Listing]] = []
