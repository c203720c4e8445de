"""What carries calls to the SQL functions of `sql/postgres`, and what counts as their answer."""

from collections.abc import Mapping
from typing import Protocol

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.turn import Json, JsonObject

__all__ = ["SqlFunctions", "asked", "not_an_answer"]


class SqlFunctions(Protocol):
    """Carries calls to the functions in `public`. Safe to use from many threads at once."""

    where: str
    """Names the database to people, without a secret in it."""
    timeout: float
    """Seconds that a call may take, trying again included."""

    def call(
        self, function: str, arguments: Mapping[str, Json], *, deadline: float | None = None, again: bool = True
    ) -> Json:
        """What `function` returned. Arguments are JSON values, times in ISO 8601; None leaves one at its default.

        Calling again is harmless, and is done where a reply was lost, unless `again` is false. `deadline`: on
        `time.monotonic()`; after `timeout` if none is given.

        Raises:
            StoreError: It was refused. What it would have written is not there.
            StoreUnavailable: It could not be asked, or the reply was lost.
        """
        ...

    def close(self) -> None: ...


def asked(functions: SqlFunctions, function: str, expected: str, arguments: Mapping[str, Json]) -> JsonObject:
    """What `function` answered, which has `expected`: what merely looks like success is no answer."""
    reply = functions.call(function, arguments)
    if not isinstance(reply, dict) or expected not in reply:
        raise not_an_answer(functions.where, function)
    return reply


def not_an_answer(where: str, of_what: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The database {where} answered to {of_what} with something that is not an answer of perdure's functions.",
        remedy="look at what stands between: a proxy, a login page, a gateway of another version.",
    )
