"""A store over the SQL functions of `sql/postgres`: one call for each operation, whatever carries the calls.

A direct connection and PostgREST call the same functions by the same names of arguments and get the same JSON.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from perdure.errors import ConversationFull, FunctionMissing, TurnConflict
from perdure.middleware.persistence.copied_turns import CopiedTurns
from perdure.middleware.persistence.ports import Clock, SystemClock
from perdure.middleware.persistence.serialization import (
    StoredMessage,
    decode_answer,
    decode_prompt,
    encode_answer,
    encode_prompt,
    readable_json,
)
from perdure.middleware.persistence.stores.faults import decoded, encoded
from perdure.middleware.persistence.stores.known_turns import KnownTurn, KnownTurns
from perdure.middleware.persistence.stores.sql_upkeep import SqlFunctions, SqlUpkeep, not_an_answer
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

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        with encoded(turn.id):
            arguments = self._whole(turn) | {"max_turns": window.turns, "max_tokens": window.tokens}
        known = [("begin_turn_in_line", arguments), ("begin_turn", arguments)]
        if window.last_place is not None and _is_new(turn):
            known.insert(0, ("begin_turn_up_to", {"last_place": window.last_place} | arguments))
        reply = self._acknowledged(turn, self._called(*known))
        with decoded(self._functions.where):
            continuation_id = reply["continuation_id"]
            return BegunTurn(
                continuation_id=continuation_id,
                place=reply["place"],
                replay=reply["status"] == "replay",
                outcome=Outcome(reply["outcome"] or Outcome.RUNNING),
                history=self._history(reply["history"], turn.principal, continuation_id),
            )

    def finish(self, turn: Turn) -> FinishedTurn:
        with encoded(turn.id):
            ending = self._ending(turn)
        reply: Json = {"status": "unknown"}
        if turn.place is not None:  # It has its prompt there too: that need not travel again.
            reply = self._functions.call("finish_turn", ending)
        if isinstance(reply, dict) and reply.get("status") == "unknown":
            with encoded(turn.id):
                whole = ending | self._whole(turn)
            reply = self._functions.call("finish_turn", whole)
        reply = self._acknowledged(turn, reply)
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
                        _file({**line, "turn_id": turn.id, "continuation_id": continuation_id})
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
            return [_turn(line, principal, continuation_id) for line in lines]

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
            return [_summary(line) for line in lines]

    def fork(
        self, principal: str, continuation_id: str, place: int, new_id: str, *, minted: bool = False
    ) -> ConversationSummary:
        self.tie_fork(principal, continuation_id, place, new_id, minted=minted)
        return self.conversations(principal, new_id)[0]

    def file(self, principal: str, key: str) -> StoredFile | None:
        lines = self._read("list_files", "files", user_id=principal, key=key, max_lines=1)
        with decoded(self._functions.where):
            return _file(lines[0]) if lines else None

    def files(
        self, principal: str, continuation_id: str | None = None, name: str | None = None, *, limit: int = 1000
    ) -> list[StoredFile]:
        lines = self._read(
            "list_files", "files", user_id=principal, continuation_id=continuation_id, name=name, max_lines=limit
        )
        with decoded(self._functions.where):
            return [_file(line) for line in lines]

    def close(self) -> None:
        self._functions.close()

    def _history(self, lines: Sequence[JsonObject], principal: str, continuation_id: str) -> Sequence[Turn]:
        """A line that is as it was when this conversation was read last is not taken apart again."""
        conversation = principal, continuation_id
        known, generation = self._known.of(conversation), self._known.generation
        window: dict[int, KnownTurn] = {}
        for line in lines:
            place = line["place"]
            found = known.get(place)
            if found is None or found.row != line:
                found = KnownTurn(_turn(line, principal, continuation_id), _characters(line), line)
            window[place] = found
        self._known.keep(conversation, window, generation)
        return CopiedTurns([found.turn for found in window.values()])

    def _read(self, function: str, what: str, **arguments: Json) -> list[JsonObject]:
        reply = self._functions.call(function, arguments | {"at": self._clock.now().isoformat()})
        return self._lines(function, what, reply)

    def _called(self, *newest_first: tuple[str, JsonObject]) -> Json:
        """What the first of these functions answers, with its arguments, that the database has been migrated to."""
        *newer, (oldest, arguments) = newest_first
        for function, given in newer:
            if time.monotonic() - self._missing.get(function, -_ASK_AGAIN_AFTER) < _ASK_AGAIN_AFTER:
                continue
            try:
                return self._functions.call(function, given)
            except FunctionMissing:
                self._missing[function] = time.monotonic()
        return self._functions.call(oldest, arguments)

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


def _turn(line: JsonObject, principal: str, continuation_id: str) -> Turn:
    prompt = decode_prompt(StoredMessage(line["prompt"], line["prompt_body"]))
    answered = line["outcome"] is not None
    started_at = _time(line["started_at"])
    return Turn(
        id=line["turn_id"],
        principal=principal,
        continuation_id=continuation_id,
        tool=line["tool"],
        prompt=prompt.text,
        arguments=prompt.arguments,
        started_at=started_at,
        lease_until=_time(line["lease_until"]) if line["lease_until"] else started_at,
        outcome=Outcome(line["outcome"] or Outcome.RUNNING),
        answer=decode_answer(StoredMessage(line["answer"], line["answer_body"])) if answered else None,
        ended_at=_time(line["ended_at"]) if answered else None,
        place=line["place"],
        after_place=line["after_place"],
        deferred=line["deferred"],
        tokens=line["tokens"] or 0,
        digest=line["digest"],
        metadata=prompt.metadata or line["metadata"] or {},
        stored_form=True,
    )


def _characters(line: JsonObject) -> int:
    return sum(len(line[name] or "") for name in ("prompt", "prompt_body", "answer", "answer_body"))


def _summary(line: JsonObject) -> ConversationSummary:
    return ConversationSummary(
        principal=line["user_id"],
        continuation_id=line["continuation_id"],
        turns=line["last_place"],
        created_at=_time(line["created_at"]),
        updated_at=_time(line["updated_at"]),
        minted=line["minted"],
        expires_at=_time(line["expires_at"]) if line["expires_at"] else None,
    )


def _file(line: JsonObject) -> StoredFile:
    return StoredFile(
        key=line["key"],
        bucket=line["bucket"],
        name=line["name"],
        sha256=line["sha256"],
        size=line["size"],
        media_type=line["media_type"],
        version=line["version"],
        turn_id=line["turn_id"],
        continuation_id=line["continuation_id"],
        created_at=_time(line["created_at"]),
    )


def _time(text: Any) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
