"""How turns end over the SQL functions, alone or with others: what is asked, and what is made of the reply."""

import time
from collections.abc import Sequence

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.called_together import CalledTogether
from perdure.middleware.persistence.stores.faults import OF_ONE_TURN, decoded, encoded
from perdure.middleware.persistence.stores.known_windows import KnownWindows
from perdure.middleware.persistence.stores.migrated_functions import MigratedFunctions
from perdure.middleware.persistence.stores.sql_arguments import Ending, as_read, beginning_of, ending_of
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions, acknowledged
from perdure.middleware.persistence.stores.sql_lines import file_of
from perdure.middleware.persistence.turn import FinishedTurn, Json, JsonObject, Outcome, StoredFile, Turn

__all__ = ["Endings"]


class Endings:
    def __init__(
        self,
        functions: SqlFunctions,
        migrated: MigratedFunctions,
        known: KnownWindows[tuple[str, str]],
        clock: Clock,
    ) -> None:
        self._functions = functions
        self._migrated = migrated
        self._known = known
        self._clock = clock
        self.called = CalledTogether("finish_turns", "endings", functions, migrated)

    def one(self, turn: Turn) -> FinishedTurn:
        deadline = time.monotonic() + self._functions.timeout
        with encoded(turn.id):
            ending = ending_of(turn, self._clock.now())
        reply: Json = None
        if turn.place is not None:  # It has its prompt there too: that need not travel again.
            if turn.files or self._migrated.is_missing("finish_turns"):
                reply = self._functions.call("finish_turn", ending.given, deadline=deadline)
            else:
                reply = self.called.reply(ending.given, ending.characters, deadline)
        if reply is None or (isinstance(reply, dict) and reply.get("status") == "unknown"):
            with encoded(turn.id):
                whole = ending.given | beginning_of(turn, self._clock.now()).given
            reply = self._functions.call("finish_turn", whole, deadline=deadline)
        with decoded(self._functions.where):
            return self._finished(turn, ending, reply)

    def several(self, turns: Sequence[Turn]) -> list[FinishedTurn | None]:
        deadline = time.monotonic() + self._functions.timeout
        finished: list[FinishedTurn | None] = [None] * len(turns)
        now = self._clock.now()
        endings: dict[int, Ending] = {}
        for number, turn in enumerate(turns):
            if turn.place is not None and not turn.files:
                try:
                    endings[number] = ending_of(turn, now)
                except OF_ONE_TURN:
                    continue  # `one` says why.
        asked = [(ending.given, ending.characters) for ending in endings.values()]
        replies = self.called.replies(asked, deadline)
        for (number, ending), reply in zip(endings.items(), replies, strict=True):
            if reply is not None:
                try:
                    finished[number] = self._finished(turns[number], ending, reply)
                except OF_ONE_TURN:
                    continue  # … here, too.
        return finished

    def _finished(self, turn: Turn, ending: Ending, reply: Json) -> FinishedTurn:
        told = acknowledged(self._functions.where, turn, reply)
        # No id: the conversation has expired meanwhile, and is found under none any more.
        continuation_id = told["continuation_id"] or turn.continuation_id
        self._note(turn, ending, told, continuation_id)
        return FinishedTurn(
            continuation_id=continuation_id,
            place=told["place"],
            outcome=turn.outcome if told["outcome"] == turn.outcome else Outcome(told["outcome"]),
            files=_files(told["files"], turn, continuation_id) if told["files"] else (),
        )

    def _note(self, turn: Turn, ending: Ending, reply: JsonObject, continuation_id: str) -> None:
        """What the end of `turn` makes of its conversation's history."""
        begun, version = self._known.begun_here(turn.id), reply.get("version")
        known = None
        is_in_history = turn.outcome is Outcome.ANSWERED
        if is_in_history and begun is not None and version is not None and begun.place == reply["place"]:
            known = as_read(begun, turn, ending, continuation_id, version)
        conversation = turn.principal, continuation_id
        self._known.ended(conversation, reply["place"], version, known, is_in_history=is_in_history)


def _files(lines: Sequence[JsonObject], turn: Turn, continuation_id: str) -> tuple[StoredFile, ...]:
    """Each once: a fork of this conversation names them, too."""
    named = {"turn_id": turn.id, "continuation_id": continuation_id}
    return tuple(dict.fromkeys(file_of({**line, **named}) for line in lines))
