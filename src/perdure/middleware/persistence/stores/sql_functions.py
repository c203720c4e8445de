"""A store over the SQL functions of `sql/postgres`: one call for each operation, whatever carries the calls.

A direct connection and PostgREST call the same functions by the same names of arguments and get the same JSON.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

from perdure.errors import ConversationFull, FunctionMissing, TurnConflict
from perdure.middleware.persistence.copied_turns import CopiedTurns
from perdure.middleware.persistence.ports import Clock, SystemClock
from perdure.middleware.persistence.stores.faults import decoded, encoded
from perdure.middleware.persistence.stores.grouped_calls import GroupedCalls
from perdure.middleware.persistence.stores.kept_words import KeptWords
from perdure.middleware.persistence.stores.known_turns import KnownTurn
from perdure.middleware.persistence.stores.known_windows import BegunHere, KnownWindow, KnownWindows, Told
from perdure.middleware.persistence.stores.search_upkeep import SearchUpkeep
from perdure.middleware.persistence.stores.sql_arguments import Ending, as_read, beginning_of, ending_of
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions, not_an_answer
from perdure.middleware.persistence.stores.sql_lines import characters_of, file_of, summary_of, turn_of
from perdure.middleware.persistence.stores.sql_upkeep import SqlUpkeep
from perdure.middleware.persistence.turn import (
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    Json,
    JsonObject,
    Outcome,
    StoredFile,
    Turn,
    Window,
)

__all__ = ["SqlFunctionStore", "SqlFunctions"]

_LAST_PLACE = (1 << 63) - 1

_ASK_AGAIN_AFTER = 60.0
"""Seconds for which a function that was missing is not called: then somebody may have migrated."""

_UNDER_WAY = 1
"""Groups of turns that begin, and of turns that end, at a time: more at a time are smaller, and cost more in all."""


class SqlFunctionStore(SqlUpkeep):
    blocking = True

    def __init__(self, functions: SqlFunctions, clock: Clock | None = None) -> None:
        self.where = functions.where
        """Names the database to people, without a secret in it."""
        self._functions = functions
        self._clock = clock or SystemClock()
        self._missing: dict[str, float] = {}
        """Functions that the database has not, and when it said so."""
        self._known: KnownWindows[tuple[str, str]] = KnownWindows()
        self._words = KeptWords(functions)
        self._words_upkeep = SearchUpkeep(self._words)
        self._beginnings = GroupedCalls(partial(self._sent, "begin_turns", "beginnings"), under_way=_UNDER_WAY)
        self._endings = GroupedCalls(partial(self._sent, "finish_turns", "endings"), under_way=_UNDER_WAY)

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        deadline = time.monotonic() + self._functions.timeout
        conversation = turn.principal, turn.continuation_id
        with encoded(turn.id):
            beginning = beginning_of(turn, self._clock.now())
        given = beginning.given
        given["max_turns"], given["max_tokens"] = window.turns, window.tokens
        told = self._known.of(conversation, window)
        reply: Json = None
        if _is_new(turn):
            asked = given | _versions_of(told)
            if window.last_place is not None:
                asked["last_place"] = window.last_place
            reply = self._together("begin_turns", self._beginnings, asked, beginning.characters, deadline)
        if reply is None:
            older = [("begin_turn_in_line", given), ("begin_turn", given)]
            if window.last_place is not None and _is_new(turn):
                older.insert(0, ("begin_turn_up_to", {"last_place": window.last_place} | given))
            reply = self._called(*older, deadline=deadline)
        reply = self._acknowledged(turn, reply)
        with decoded(self._functions.where):
            continuation_id = reply["continuation_id"]
            if reply["history"] is None and told.claim is not None:  # all of it stands there as it was claimed
                turns = told.turns
            else:
                if continuation_id != turn.continuation_id:
                    conversation, told = (turn.principal, continuation_id), told._replace(turns={})
                turns = _turns(reply["history"], told.turns, turn.principal, continuation_id)
                self._known.keep(conversation, _window(window, turns, reply), told.generation)
            begun = BegunTurn(
                continuation_id=continuation_id,
                place=reply["place"],
                replay=reply["status"] == "replay",
                outcome=Outcome(reply["outcome"] or Outcome.RUNNING),
                history=CopiedTurns([found.turn for found in turns.values()]),
            )
            if (version := reply.get("version")) is not None:
                here = BegunHere(turn, beginning.prompt, beginning.characters, begun.place, version)
                self._known.begun(conversation, here, told.generation)
            return begun

    def finish(self, turn: Turn) -> FinishedTurn:
        deadline = time.monotonic() + self._functions.timeout
        with encoded(turn.id):
            ending = ending_of(turn, self._clock.now())
        reply: Json = None
        if turn.place is not None:  # It has its prompt there too: that need not travel again.
            if turn.files or self._is_missing("finish_turns"):
                reply = self._functions.call("finish_turn", ending.given, deadline=deadline)
            else:
                reply = self._together("finish_turns", self._endings, ending.given, ending.characters, deadline)
        if reply is None or (isinstance(reply, dict) and reply.get("status") == "unknown"):
            with encoded(turn.id):
                whole = ending.given | beginning_of(turn, self._clock.now()).given
            reply = self._functions.call("finish_turn", whole, deadline=deadline)
        reply = self._acknowledged(turn, reply)
        self._words_upkeep.count_turn()
        with decoded(self._functions.where):
            # No id: the conversation has expired meanwhile, and is found under none any more.
            continuation_id = reply["continuation_id"] or turn.continuation_id
            self._note(turn, ending, reply, continuation_id)
            return FinishedTurn(
                continuation_id=continuation_id,
                place=reply["place"],
                outcome=Outcome(reply["outcome"]),
                # Each once: a fork of this conversation names them, too.
                files=tuple(
                    dict.fromkeys(
                        file_of({**line, "turn_id": turn.id, "continuation_id": continuation_id})
                        for line in reply["files"]
                    )
                ),
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
        reply = self._called(("read_turns_in_line", arguments), ("read_turns", arguments))
        lines = self._lines("read_turns", "turns", reply)
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
        return self._lines(function, what, reply)

    def _together(
        self, function: str, calls: GroupedCalls, given: JsonObject, characters: int, deadline: float
    ) -> JsonObject | None:
        """What `function` answers to these arguments, among those of others. None: another function has to be asked."""
        if self._is_missing(function):
            return None
        try:
            return calls.call(given, characters, deadline)
        except FunctionMissing:
            self._missing[function] = time.monotonic()
            return None

    def _sent(
        self, function: str, argument: str, given: Sequence[JsonObject], *, deadline: float, again: bool
    ) -> Mapping[str, JsonObject]:
        reply = self._functions.call(function, {argument: given}, deadline=deadline, again=again)
        lines = self._lines(function, "turns", reply)
        with decoded(self._functions.where):
            return {line["turn_id"]: line for line in lines}

    def _called(self, *newest_first: tuple[str, JsonObject], deadline: float | None = None) -> Json:
        """What the first of these functions answers, with its arguments, that the database has been migrated to."""
        *newer, (oldest, arguments) = newest_first
        for function, given in newer:
            if self._is_missing(function):
                continue
            try:
                return self._functions.call(function, given, deadline=deadline)
            except FunctionMissing:
                self._missing[function] = time.monotonic()
        return self._functions.call(oldest, arguments, deadline=deadline)

    def _is_missing(self, function: str) -> bool:
        return time.monotonic() - self._missing.get(function, -_ASK_AGAIN_AFTER) < _ASK_AGAIN_AFTER

    def _lines(self, function: str, what: str, reply: Json) -> list[JsonObject]:
        if not isinstance(reply, dict) or not isinstance(lines := reply.get(what), list):
            raise not_an_answer(self._functions.where, function)
        return lines

    def _acknowledged(self, turn: Turn, reply: Json) -> JsonObject:
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
        raise not_an_answer(self._functions.where, "a turn")


def _is_new(turn: Turn) -> bool:
    """Whether nobody can have begun it: it has no place, and an id made for it alone, not from an idempotency key."""
    return turn.place is None and turn.id[14:15] == "7"


def _versions_of(told: Told) -> JsonObject:
    """By which the database tells what of a history need not travel."""
    versions = [found.made_of for found in told.turns.values() if isinstance(found.made_of, int)]
    if told.claim is None:
        return {"known": versions}
    return {"known": versions, "known_from": told.claim.first, "known_version": told.claim.version}


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
