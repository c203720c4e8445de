"""How turns begin over the SQL functions, alone or with others: what is asked, and what is made of the reply."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from perdure.middleware.persistence.copied_turns import CopiedTurns
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.called_together import CalledTogether
from perdure.middleware.persistence.stores.faults import OF_ONE_TURN, decoded, encoded
from perdure.middleware.persistence.stores.known_turns import KnownTurn
from perdure.middleware.persistence.stores.known_windows import BegunHere, KnownWindow, KnownWindows, Told
from perdure.middleware.persistence.stores.migrated_functions import MigratedFunctions
from perdure.middleware.persistence.stores.sql_arguments import Beginning, beginning_of
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions, acknowledged
from perdure.middleware.persistence.stores.sql_lines import characters_of, turn_of
from perdure.middleware.persistence.turn import BegunTurn, Json, JsonObject, Outcome, Turn, Window

__all__ = ["Beginnings"]


class _Asked(NamedTuple):
    turn: Turn
    window: Window
    beginning: Beginning
    told: Told
    """What was known of its conversation when it was asked."""


class Beginnings:
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
        self.called = CalledTogether("begin_turns", "beginnings", functions, migrated)

    def one(self, turn: Turn, window: Window) -> BegunTurn:
        deadline = time.monotonic() + self._functions.timeout
        with encoded(turn.id):
            asked = self._asked(turn, window, self._clock.now())
        reply: Json = None
        if turn.is_new:
            reply = self.called.reply(_among_others(asked), asked.beginning.characters, deadline)
        if reply is None:
            given = asked.beginning.given
            older = [("begin_turn_in_line", given), ("begin_turn", given)]
            if window.last_place is not None and turn.is_new:
                older.insert(0, ("begin_turn_up_to", {"last_place": window.last_place} | given))
            reply = self._migrated.newest(*older, deadline=deadline)
        with decoded(self._functions.where):
            return self._begun(asked, reply)

    def several(self, wanted: Sequence[tuple[Turn, Window]]) -> list[BegunTurn | None]:
        deadline = time.monotonic() + self._functions.timeout
        begun: list[BegunTurn | None] = [None] * len(wanted)
        now = self._clock.now()
        asked: dict[int, _Asked] = {}
        for number, (turn, window) in enumerate(wanted):
            if turn.is_new:
                try:
                    asked[number] = self._asked(turn, window, now)
                except OF_ONE_TURN:
                    continue  # `one` says why.
        sent = [(_among_others(one), one.beginning.characters) for one in asked.values()]
        replies = self.called.replies(sent, deadline)
        for (number, one), reply in zip(asked.items(), replies, strict=True):
            if reply is not None:
                try:
                    begun[number] = self._begun(one, reply)
                except OF_ONE_TURN:
                    continue  # … here, too.
        return begun

    def _asked(self, turn: Turn, window: Window, now: datetime) -> _Asked:
        beginning = beginning_of(turn, now)
        beginning.given["max_turns"], beginning.given["max_tokens"] = window.turns, window.tokens
        return _Asked(turn, window, beginning, self._known.of((turn.principal, turn.continuation_id), window))

    def _begun(self, asked: _Asked, answer: Json) -> BegunTurn:
        turn, window, beginning, told = asked
        conversation = turn.principal, turn.continuation_id
        reply = acknowledged(self._functions.where, turn, answer)
        continuation_id = reply["continuation_id"]
        if reply["history"] is None and told.claim is not None:  # all of it stands there as it was claimed
            shown = told.shown
        else:
            if continuation_id != turn.continuation_id:
                conversation, told = (turn.principal, continuation_id), told._replace(turns={})
            turns = _turns(reply["history"], told.turns, turn.principal, continuation_id)
            shown = [found.turn for found in turns.values()]
            self._known.keep(conversation, _window(window, turns, reply), told.generation)
        begun = BegunTurn(
            continuation_id=continuation_id,
            place=reply["place"],
            replay=reply["status"] == "replay",
            outcome=Outcome(reply["outcome"]) if reply["outcome"] else Outcome.RUNNING,
            history=CopiedTurns(shown),
        )
        if (version := reply.get("version")) is not None:
            here = BegunHere(turn, beginning.prompt, beginning.characters, begun.place, version)
            self._known.begun(conversation, here, told.generation)
        return begun


def _among_others(asked: _Asked) -> JsonObject:
    """With the versions, by which the database tells what of a history need not travel."""
    given, claim = {**asked.beginning.given, "known": asked.told.versions}, asked.told.claim
    if claim is not None:
        given["known_from"], given["known_version"] = claim
    if asked.window.last_place is not None:
        given["last_place"] = asked.window.last_place
    return given


def _window(window: Window, turns: dict[int, KnownTurn], reply: JsonObject) -> KnownWindow:
    """What a reply that tells a history makes known."""
    first = reply.get("known_from")
    if first is None:
        return KnownWindow(window, turns)
    versions = {place: found.made_of for place, found in turns.items() if isinstance(found.made_of, int)}
    unread = {int(place): version for place, version in reply["unread"].items()}
    return KnownWindow(window, turns, first, versions | unread)


def _turns(
    history: Sequence[int | JsonObject], known: Mapping[int, KnownTurn], principal: str, continuation_id: str
) -> dict[int, KnownTurn]:
    """Turns by place: `history` has the place alone of one that is known, and the whole line of any other.

    A line without a version, as older functions send it, is not taken apart again where it is as it was.
    """
    turns: dict[int, KnownTurn] = {}
    for line in history:
        if isinstance(line, int):
            turns[line] = known[line]
            continue
        place = line["place"]
        found = known.get(place)
        made_of = line.get("version", line)
        if found is None or found.made_of != made_of:
            found = KnownTurn(turn_of(line, principal, continuation_id), characters_of(line), made_of)
        turns[place] = found
    return turns
