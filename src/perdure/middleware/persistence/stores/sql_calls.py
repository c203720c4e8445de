"""What carries calls to the SQL functions of `sql/postgres`, and what counts as their answer."""

from collections.abc import Mapping
from typing import Protocol

from perdure.errors import ConversationFull, StoreUnavailable, TurnConflict
from perdure.middleware.persistence.turn import Json, JsonObject, Turn

__all__ = ["SqlFunctions", "acknowledged", "asked", "lines_of", "not_an_answer"]


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


def lines_of(where: str, function: str, what: str, reply: Json) -> list[JsonObject]:
    """All of `what` that `function` answered with.

    Raises:
        StoreUnavailable: It is no list of them.
    """
    if not isinstance(reply, dict) or not isinstance(lines := reply.get(what), list):
        raise not_an_answer(where, function)
    return lines


def acknowledged(where: str, turn: Turn, reply: Json) -> JsonObject:
    """`reply`, if it speaks of `turn`: what merely looks like success is no acknowledgement.

    Raises:
        TurnConflict: The id belongs to another principal or another call.
        ConversationFull: It has given the last place that it may.
        StoreUnavailable: It is not what the functions answer.
    """
    if isinstance(reply, dict):  # not `match`, which takes four times as long
        status, place = reply.get("status"), reply.get("place")
        if status == "conflict":
            raise TurnConflict(f"The turn id {turn.id} was used before for another call.")
        if status == "full" and isinstance(place, int):
            raise ConversationFull(turn.continuation_id, place)
        if reply.get("turn_id") == turn.id and isinstance(place, int):
            return reply
    raise not_an_answer(where, "a turn")


def not_an_answer(where: str, of_what: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The database {where} answered to {of_what} with something that is not an answer of perdure's functions.",
        remedy="look at what stands between: a proxy, a login page, a gateway of another version.",
    )
