"""An SQL function that takes several turns: those of one thread, and those that come from others meanwhile."""

import time
from collections.abc import Mapping, Sequence

from perdure.errors import FunctionMissing, StoreError, StoreFailed, StoreMisconfigured, StoreTimeout, StoreUnavailable
from perdure.middleware.persistence.stores.faults import decoded
from perdure.middleware.persistence.stores.grouped_calls import GroupedCalls, portions
from perdure.middleware.persistence.stores.migrated_functions import MigratedFunctions
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions, lines_of
from perdure.middleware.persistence.turn import JsonObject

__all__ = ["CalledTogether"]

_UNDER_WAY = 1
"""Calls of the function at a time: more at a time are smaller, and cost more in all."""


class CalledTogether:
    """None, in place of a reply, is said of a turn that another function has to be asked about."""

    def __init__(self, function: str, argument: str, functions: SqlFunctions, migrated: MigratedFunctions) -> None:
        """`argument`: the name of its list of turns."""
        self._function = function
        self._argument = argument
        self._functions = functions
        self._migrated = migrated
        self.grouped = GroupedCalls(self._sent, under_way=_UNDER_WAY)

    def reply(self, given: JsonObject, characters: int, deadline: float) -> JsonObject | None:
        """To what the function is given of one turn, among that of others."""
        if self._migrated.is_missing(self._function):
            return None
        try:
            return self.grouped.call(given, characters, deadline)
        except FunctionMissing:
            self._migrated.note_missing(self._function)
            return None

    def replies(self, turns: Sequence[tuple[JsonObject, int]], deadline: float) -> "list[JsonObject | None]":
        """To what the function is given of each, beside its characters.

        Raises:
            StoreError: The database cannot be asked, or there is no time left to ask it about each by itself.
        """
        replies: list[JsonObject | None] = [None] * len(turns)
        for portion in portions([characters for _, characters in turns]):
            given = [turns[number][0] for number in portion]
            try:
                found = self._portion(given, sum(turns[number][1] for number in portion), deadline)
            except StoreError:
                if not any(replies):
                    raise
                break  # What became of the first of them is known. The others are told by themselves what is wrong.
            for number, reply in zip(portion, found, strict=True):
                replies[number] = reply
        return replies

    def _portion(self, given: Sequence[JsonObject], characters: int, deadline: float) -> "Sequence[JsonObject | None]":
        nothing = [None] * len(given)
        if self._migrated.is_missing(self._function):
            return nothing
        try:
            return self.grouped.call_with(given, characters, deadline)
        except FunctionMissing:
            self._migrated.note_missing(self._function)
            return nothing
        except StoreError as error:
            if _may_be_of_one(error, deadline):
                return nothing
            if isinstance(error, StoreTimeout | StoreFailed):
                raise
        # The way to it was lost, as it is when it has restarted: none of them would fare better by itself.
        replies = self._sent(given, deadline=deadline, again=True)
        return [replies.get(one["turn_id"]) for one in given]

    def _sent(self, given: Sequence[JsonObject], *, deadline: float, again: bool) -> Mapping[str, JsonObject]:
        reply = self._functions.call(self._function, {self._argument: given}, deadline=deadline, again=again)
        lines = lines_of(self._functions.where, self._function, "turns", reply)
        with decoded(self._functions.where):
            return {line["turn_id"]: line for line in lines}


def _may_be_of_one(error: StoreError, deadline: float) -> bool:
    """Whether others would not have met with `error` without one among them, as with a text that is refused."""
    match error:
        case StoreTimeout() | StoreFailed():  # A conversation is locked; unless it is they who have waited too long.
            return time.monotonic() < deadline
        case StoreUnavailable():
            return isinstance(error, StoreMisconfigured)  # One principal may not be allowed what others are.
        case _:
            return True
