"""The words of messages in Postgres: `keep_words` makes them, all that wait for who searches, and some beside turns."""

import time

from perdure.errors import FunctionMissing, SearchNotReady
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions, asked
from perdure.middleware.persistence.turn import JsonObject

__all__ = ["KeptWords"]

_AT_ONCE = 1000
"""Messages in one call: 200 ms of 2 KB each."""

_BESIDE_TURNS = 100

_LONGEST_SECONDS = 30.0
"""That anybody who searches is kept waiting."""


class KeptWords:
    rest = 20.0
    faults: tuple[type[Exception], ...] = ()

    def __init__(self, functions: SqlFunctions) -> None:
        self.where = f"the search index of {functions.where}"
        self._functions = functions

    def is_wanted(self) -> bool:
        return True  # The database knows: it adds nothing before somebody has searched.

    def add_some(self) -> bool:
        try:
            return bool(self._kept({"max_messages": _BESIDE_TURNS, "only_if_wanted": True})["left"])
        except FunctionMissing:
            return False  # An older database makes them with each message.

    def add_all(self) -> None:
        """
        Raises:
            SearchNotReady: There is more than can be added while somebody waits.
            StoreUnavailable: The database cannot be asked.
        """
        until = time.monotonic() + _LONGEST_SECONDS
        given: JsonObject = {"max_messages": _AT_ONCE}
        while True:
            try:
                reply = self._kept(given)
            except FunctionMissing:
                return
            if not reply["left"]:
                return
            if time.monotonic() > until:
                raise SearchNotReady(
                    f"The messages in {self._functions.where} are being made ready for search for the first time, and "
                    f"{_LONGEST_SECONDS:.0f} s were not enough for all of them.",
                    remedy="search again, until this is not said any more: what was done stays done.",
                )
            given["after"] = reply["after"]

    def _kept(self, given: JsonObject) -> JsonObject:
        return asked(self._functions, "keep_words", "left", given)
