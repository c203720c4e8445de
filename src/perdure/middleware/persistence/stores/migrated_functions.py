"""The SQL functions that a database has: one that an older perdure migrated lacks some, which are asked for seldom."""

import time

from perdure.errors import FunctionMissing
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions
from perdure.middleware.persistence.turn import Json, JsonObject

__all__ = ["MigratedFunctions"]

_ASK_AGAIN_AFTER = 60.0
"""Seconds for which a function that was missing is not called: then somebody may have migrated."""


class MigratedFunctions:
    def __init__(self, functions: SqlFunctions) -> None:
        self._functions = functions
        self._missing: dict[str, float] = {}
        """Functions that the database has not, and when it said so."""

    def newest(self, *newest_first: tuple[str, JsonObject], deadline: float | None = None) -> Json:
        """What the first of these functions answers, with its arguments, that the database has been migrated to."""
        *newer, (oldest, arguments) = newest_first
        for function, given in newer:
            if self.is_missing(function):
                continue
            try:
                return self._functions.call(function, given, deadline=deadline)
            except FunctionMissing:
                self.note_missing(function)
        return self._functions.call(oldest, arguments, deadline=deadline)

    def is_missing(self, function: str) -> bool:
        return time.monotonic() - self._missing.get(function, -_ASK_AGAIN_AFTER) < _ASK_AGAIN_AFTER

    def note_missing(self, function: str) -> None:
        self._missing[function] = time.monotonic()
