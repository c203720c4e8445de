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
from perdure.middleware.persistence.serialization import encode_answer, encode_prompt, readable_json
from perdure.middleware.persistence.stores.faults import decoded, encoded
from perdure.middleware.persistence.stores.grouped_calls import GroupedCalls
from perdure.middleware.persistence.stores.kept_words import KeptWords
from perdure.middleware.persistence.stores.known_turns import KnownTurn, KnownTurns
from perdure.middleware.persistence.stores.search_upkeep import SearchUpkeep
from perdure.middleware.persistence.stores.sql_calls import SqlFunctions, not_an_answer
from perdure.middleware.persistence.stores.sql_lines import characters_of, file_of, summary_of, turn_of
from perdure.middleware.persistence.stores.sql_upkeep import SqlUpkeep
from perdure.middleware.persistence.turn import (
    Answer,
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    Json,
    JsonObject,
    Outcome,
    StoredFile,
    Turn,
    Window,
    new_turn_id,
)

__all__ = ["SqlFunctionStore", "SqlFunctions"]

_LAST_PLACE = (1 << 63) - 1

_ASK_AGAIN_AFTER = 60.0
"""Seconds for which a function that was missing is not called: then somebody may have migrated."""

_UNDER_WAY = 1
"""Groups of turns that begin, and of turns that end, at a time: more at a time are smaller, and cost more in all."""

_TEXTS = ("content", "body", "answer", "answer_body")


class SqlFunctionStore(SqlUpkeep):
    blocking = True

    def __init__(self, functions: SqlFunctions, clock: Clock | None = None) -> None:
        self.where = functions.where
        """Names the database to people, without a secret in it."""
        self._functions = functions
        self._clock = clock or SystemClock()
        self._missing: dict[str, float] = {}
        """Functions that the database has not, and when it said so."""
        self._known: KnownTurns[tuple[str, str]] = KnownTurns()
        self._words = KeptWords(functions)
        self._words_upkeep = SearchUpkeep(self._words)
        self._beginnings = GroupedCalls(partial(self._sent, "begin_turns", "beginnings"), under_way=_UNDER_WAY)
        self._endings = GroupedCalls(partial(self._sent, "finish_turns", "endings"), under_way=_UNDER_WAY)

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        deadline = time.monotonic() + self._functions.timeout
        conversation = turn.principal, turn.continuation_id
        known, generation = self._known.of(conversation), self._known.generation
        with encoded(turn.id):
            arguments = self._whole(turn) | {"max_turns": window.turns, "max_tokens": window.tokens}
        reply: Json = None
        if _is_new(turn):
            versions = [found.made_of for found in known.values() if isinstance(found.made_of, int)]
            beginning = arguments | {"last_place": window.last_place, "known": versions}
            reply = self._together("begin_turns", self._beginnings, beginning, deadline)
        if reply is None:
            older = [("begin_turn_in_line", arguments), ("begin_turn", arguments)]
            if window.last_place is not None and _is_new(turn):
                older.insert(0, ("begin_turn_up_to", {"last_place": window.last_place} | arguments))
            reply = self._called(*older, deadline=deadline)
        reply = self._acknowledged(turn, reply)
        with decoded(self._functions.where):
            continuation_id = reply["continuation_id"]
            if continuation_id != turn.continuation_id:
                conversation, known = (turn.principal, continuation_id), {}
            window_now = _window(reply["history"], known, turn.principal, continuation_id)
            self._known.keep(conversation, window_now, generation)
            return BegunTurn(
                continuation_id=continuation_id,
                place=reply["place"],
                replay=reply["status"] == "replay",
                outcome=Outcome(reply["outcome"] or Outcome.RUNNING),
                history=CopiedTurns([found.turn for found in window_now.values()]),
            )

    def finish(self, turn: Turn) -> FinishedTurn:
        deadline = time.monotonic() + self._functions.timeout
        with encoded(turn.id):
            ending = self._ending(turn)
        reply: Json = None
        if turn.place is not None:  # It has its prompt there too: that need not travel again.
            if turn.files or self._is_missing("finish_turns"):
                reply = self._functions.call("finish_turn", ending, deadline=deadline)
            else:
                reply = self._together("finish_turns", self._endings, ending, deadline)
        if reply is None or (isinstance(reply, dict) and reply.get("status") == "unknown"):
            with encoded(turn.id):
                whole = ending | self._whole(turn)
            reply = self._functions.call("finish_turn", whole, deadline=deadline)
        reply = self._acknowledged(turn, reply)
        self._words_upkeep.count_turn()
        with decoded(self._functions.where):
            # No id: the conversation has expired meanwhile, and is found under none any more.
            continuation_id = reply["continuation_id"] or turn.continuation_id
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
        self, function: str, calls: GroupedCalls, arguments: JsonObject, deadline: float
    ) -> JsonObject | None:
        """What `function` answers to these arguments, among those of others. None: another function has to be asked."""
        if self._is_missing(function):
            return None
        given = {name: value for name, value in arguments.items() if value is not None}
        characters = sum(len(given.get(name, "")) for name in _TEXTS)
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
        match reply:
            case {"status": "conflict"}:
                raise TurnConflict(f"The turn id {turn.id} was used before for another call.")
            case {"status": "full", "place": int() as place}:
                raise ConversationFull(turn.continuation_id, place)
            case {"turn_id": turn_id, "place": int()} if turn_id == turn.id:
                return dict(reply)
            case _:
                raise not_an_answer(self._functions.where, "a turn")

    def _whole(self, turn: Turn) -> JsonObject:
        """All that makes a turn known that was not known before."""
        prompt = encode_prompt(turn.prompt, turn.arguments, turn.metadata)
        now = self._clock.now()
        return {
            "turn_id": turn.id,
            "user_id": turn.principal,
            "continuation_id": turn.continuation_id,
            "tool": turn.tool,
            "digest": turn.digest,
            "content": prompt.content,
            "body": prompt.body,
            "started_at": turn.started_at.isoformat(),
            "lease_until": turn.lease_until.isoformat(),
            "metadata": readable_json(turn.metadata) or None,
            "minted": turn.minted,
            "adopt": turn.adopt,
            "fresh_id": turn.fresh_id or None,
            "after_place": turn.after_place,
            "deferred": turn.deferred,
            "at": now.isoformat(),
            "expires_at": (now + turn.expire_after).isoformat() if turn.expire_after else None,
        }

    def _ending(self, turn: Turn) -> JsonObject:
        answer = encode_answer(turn.answer or Answer())
        return {
            "turn_id": turn.id,
            # Nobody can know it beforehand: a row that stood there already would keep the answer out.
            "answer_id": new_turn_id(turn.ended_at or self._clock.now()),
            "user_id": turn.principal,
            "digest": turn.digest,
            "outcome": turn.outcome.value,
            "answer": answer.content,
            "answer_body": answer.body,
            "tokens": turn.tokens,
            "ended_at": (turn.ended_at or self._clock.now()).isoformat(),
            "files": [
                {
                    "name": file.name,
                    "bucket": file.bucket,
                    "key": file.key,
                    "sha256": file.sha256,
                    "size": file.size,
                    "media_type": file.media_type,
                }
                for file in turn.files
            ]
            or None,
        }


def _is_new(turn: Turn) -> bool:
    """Whether nobody can have begun it: it has no place, and an id made for it alone, not from an idempotency key."""
    return turn.place is None and turn.id[14:15] == "7"


def _window(
    history: Sequence[int | JsonObject], known: Mapping[int, KnownTurn], principal: str, continuation_id: str
) -> dict[int, KnownTurn]:
    """Turns by place: `history` has the place alone of one that is known, and the whole line of any other.

    A line without a version, as older functions send it, is not taken apart again where it is as it was.
    """
    window: dict[int, KnownTurn] = {}
    for line in history:
        if isinstance(line, int):
            window[line] = known[line]
            continue
        place = line["place"]
        found = known.get(place)
        made_of = line.get("version", line)
        if found is None or found.made_of != made_of:
            found = KnownTurn(turn_of(line, principal, continuation_id), characters_of(line), made_of)
        window[place] = found
    return window
