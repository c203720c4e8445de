"""A store over the SQL functions of `sql/postgres`: one call for each operation, whatever carries the calls.

A direct connection and PostgREST call the same functions by the same names of arguments and get the same JSON.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from perdure.middleware.persistence.ports import Clock, SystemClock
from perdure.middleware.persistence.stores.faults import decoded
from perdure.middleware.persistence.stores.kept_words import KeptWords
from perdure.middleware.persistence.stores.known_windows import KnownWindows
from perdure.middleware.persistence.stores.migrated_functions import MigratedFunctions
from perdure.middleware.persistence.stores.search_upkeep import SearchUpkeep
from perdure.middleware.persistence.stores.sql_beginnings import Beginnings
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions, lines_of, not_an_answer
from perdure.middleware.persistence.stores.sql_endings import Endings
from perdure.middleware.persistence.stores.sql_lines import file_of, summary_of, turn_of
from perdure.middleware.persistence.stores.sql_upkeep import SqlUpkeep
from perdure.middleware.persistence.turn import (
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    Json,
    JsonObject,
    StoredFile,
    Turn,
    Window,
)

__all__ = ["SqlFunctionStore", "SqlFunctions"]

_LAST_PLACE = (1 << 63) - 1


class SqlFunctionStore(SqlUpkeep):
    blocking = True
    most_together = 32
    """Of 64 that come at once one half is made ready while the server works on the other."""

    def __init__(self, functions: SqlFunctions, clock: Clock | None = None) -> None:
        self.where = functions.where
        """Names the database to people, without a secret in it."""
        self._functions = functions
        self._clock = clock or SystemClock()
        self._migrated = MigratedFunctions(functions)
        self._known: KnownWindows[tuple[str, str]] = KnownWindows()
        self._words = KeptWords(functions)
        self._words_upkeep = SearchUpkeep(self._words)
        self._beginnings = Beginnings(functions, self._migrated, self._known, self._clock)
        self._endings = Endings(functions, self._migrated, self._known, self._clock)

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        return self._beginnings.one(turn, window)

    def begin_together(self, wanted: Sequence[tuple[Turn, Window]]) -> Sequence[BegunTurn | None]:
        return self._beginnings.several(wanted)

    def finish(self, turn: Turn) -> FinishedTurn:
        finished = self._endings.one(turn)
        self._words_upkeep.count_turn()
        return finished

    def finish_together(self, turns: Sequence[Turn]) -> Sequence[FinishedTurn | None]:
        finished = self._endings.several(turns)
        for one in finished:
            if one is not None:
                self._words_upkeep.count_turn()
        return finished

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        wanted = {principal: list(turn_ids) for principal, turn_ids in turns.items()}
        reply = self._functions.call("renew_turns", {"turns": wanted, "lease_until": lease_until.isoformat()})
        if not isinstance(reply, dict) or "renewed" not in reply:
            raise not_an_answer(self._functions.where, "a renewal")

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        arguments = {
            "user_id": principal,
            "continuation_id": continuation_id,
            "after_place": min(max(after, 0), _LAST_PLACE),
            "max_turns": limit,
            "at": self._clock.now().isoformat(),
        }
        reply = self._migrated.newest(("read_turns_in_line", arguments), ("read_turns", arguments))
        lines = lines_of(self._functions.where, "read_turns", "turns", reply)
        with decoded(self._functions.where):
            return [turn_of(line, principal, continuation_id) for line in lines]

    def conversations(
        self,
        principal: str | None = None,
        continuation_id: str | None = None,
        *,
        before: tuple[datetime, str, str] | None = None,
        limit: int = 100,
    ) -> list[ConversationSummary]:
        before_at, before_user, before_id = (before[0].isoformat(), *before[1:]) if before else (None, None, None)
        lines = self._read(
            "list_conversations_with_ends",
            "conversations",
            user_id=principal,
            continuation_id=continuation_id,
            before_at=before_at,
            before_user=before_user,
            before_id=before_id,
            max_lines=limit,
        )
        with decoded(self._functions.where):
            return [summary_of(line) for line in lines]

    def fork(
        self, principal: str, continuation_id: str, place: int, new_id: str, *, minted: bool = False
    ) -> ConversationSummary:
        self.tie_fork(principal, continuation_id, place, new_id, minted=minted)
        return self.conversations(principal, new_id)[0]

    def file(self, principal: str, key: str) -> StoredFile | None:
        lines = self._read("list_files", "files", user_id=principal, key=key, max_lines=1)
        with decoded(self._functions.where):
            return file_of(lines[0]) if lines else None

    def files(
        self, principal: str, continuation_id: str | None = None, name: str | None = None, *, limit: int = 1000
    ) -> list[StoredFile]:
        lines = self._read(
            "list_files", "files", user_id=principal, continuation_id=continuation_id, name=name, max_lines=limit
        )
        with decoded(self._functions.where):
            return [file_of(line) for line in lines]

    def close(self) -> None:
        self._words_upkeep.stop()
        self._functions.close()

    def _read(self, function: str, what: str, **arguments: Json) -> list[JsonObject]:
        reply = self._functions.call(function, arguments | {"at": self._clock.now().isoformat()})
        return lines_of(self._functions.where, function, what, reply)
