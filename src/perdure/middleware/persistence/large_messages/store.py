"""A store before another one: its very large messages are in the file store, and nobody else needs to know.

The other store is given a readable head of such a message, and says in its exact form where the whole is.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from perdure.errors import FileMissing, StoreUnavailable
from perdure.logs import log
from perdure.middleware.persistence.copied_turns import all_pass
from perdure.middleware.persistence.large_messages.bodies import Bodies
from perdure.middleware.persistence.large_messages.size import is_larger
from perdure.middleware.persistence.ports import Store, grouping_of
from perdure.middleware.persistence.serialization import (
    StoredMessage,
    decode_answer,
    decode_prompt,
    encode_answer,
    encode_prompt,
)
from perdure.middleware.persistence.stores.faults import encoded
from perdure.middleware.persistence.turn import (
    Answer,
    BegunTurn,
    ConversationSummary,
    FinishedTurn,
    Json,
    StoredFile,
    Turn,
    Window,
)
from perdure.middleware.persistence.upkeep import Hit, HitPosition, Removed, Statistics

if TYPE_CHECKING:  # Most servers are never searched.
    from perdure.middleware.persistence.question import Question

__all__ = ["LargeMessages"]

_MARK = "perdure/whole"
"""The one key of what stands in place of arguments or a result: `{"key", "size"}` of the whole, or `{"value"}`, the
thing itself, where it happens to look like such a mark. So nobody can have us read what they name."""

_LONGEST_HEAD = 100_000
"""Characters: as many as a search looks at."""


class LargeMessages:
    blocking = True

    def __init__(self, store: Store, bodies: Bodies, *, max_bytes: int) -> None:
        self.bodies = bodies
        self._store = store
        self._max_bytes = max_bytes
        self._grouping = grouping_of(store)
        self.most_together = self._grouping.most_together if self._grouping is not None else 1

    def begin(self, turn: Turn, window: Window) -> BegunTurn:
        begun = self._store.begin(self._with_head_of_prompt(turn, []), window)
        if all_pass(_is_whole, begun.history):
            return begun
        # A message of the history that cannot be read now must not hold up the turn: its head says what it is.
        return replace(begun, history=tuple(self._whole(turn, or_head=True) for turn in begun.history))

    def begin_together(self, wanted: Sequence[tuple[Turn, Window]]) -> Sequence[BegunTurn | None]:
        """Those whose messages stay with them, and whose histories are whole: a file is not waited for by others."""
        results: list[BegunTurn | None] = [None] * len(wanted)
        plain = [number for number, (turn, _) in enumerate(wanted) if self._has_plain_prompt(turn)]
        if self._grouping is None or len(plain) < 2:
            return results
        together = self._grouping.begin_together([wanted[number] for number in plain])
        for number, begun in zip(plain, together, strict=True):
            if begun is not None and all_pass(_is_whole, begun.history):
                results[number] = begun
        return results

    def finish_together(self, turns: Sequence[Turn]) -> Sequence[FinishedTurn | None]:
        """The same."""
        results: list[FinishedTurn | None] = [None] * len(turns)
        plain = [
            number
            for number, turn in enumerate(turns)
            if self._has_plain_prompt(turn) and (turn.answer is None or self._is_plain(turn.answer))
        ]
        if self._grouping is None or len(plain) < 2:
            return results
        together = self._grouping.finish_together([turns[number] for number in plain])
        for number, finished in zip(plain, together, strict=True):
            if finished is not None:
                files = finished.files
                results[number] = replace(finished, files=_given_out(files)) if files else finished
        return results

    def finish(self, turn: Turn) -> FinishedTurn:
        bodies: list[StoredFile] = []
        turn = self._with_head_of_answer(self._with_head_of_prompt(turn, bodies), bodies)
        if bodies:
            turn = turn.changed(files=(*turn.files, *bodies))
        finished = self._store.finish(turn)
        return replace(finished, files=_given_out(finished.files)) if finished.files else finished

    def renew(self, turns: Mapping[str, Collection[str]], lease_until: datetime) -> None:
        self._store.renew(turns, lease_until)

    def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
        found = self._store.turns(principal, continuation_id, after=after, limit=limit)
        return [self._whole(turn, or_head=False) for turn in found]

    def conversations(
        self,
        principal: str | None = None,
        continuation_id: str | None = None,
        *,
        before: tuple[datetime, str, str] | None = None,
        limit: int = 100,
    ) -> list[ConversationSummary]:
        return self._store.conversations(principal, continuation_id, before=before, limit=limit)

    def file(self, principal: str, key: str) -> StoredFile | None:
        file = self._store.file(principal, key)
        return None if file is None or Bodies.is_one(file) else file

    def files(
        self, principal: str, continuation_id: str | None = None, name: str | None = None, *, limit: int = 1000
    ) -> list[StoredFile]:
        asked = limit
        while True:
            found = self._store.files(principal, continuation_id, name, limit=asked)
            given_out = _given_out(found)
            if len(given_out) >= limit or len(found) < asked:
                return list(given_out[:limit])
            asked *= 2  # Bodies took the places of files.

    def search(self, question: "Question", *, before: HitPosition | None = None, limit: int = 20) -> list[Hit]:
        return self._store.search(question, before=before, limit=limit)

    def delete(self, principal: str, continuation_id: str) -> Removed:
        return self._store.delete(principal, continuation_id)

    def purge(self, *, limit: int = 100, dry_run: bool = False) -> Removed:
        return self._store.purge(limit=limit, dry_run=dry_run)

    def forget(self, principal: str, *, limit: int = 100) -> Removed:
        return self._store.forget(principal, limit=limit)

    def fork(
        self, principal: str, continuation_id: str, place: int, new_id: str, *, minted: bool = False
    ) -> ConversationSummary:
        return self._store.fork(principal, continuation_id, place, new_id, minted=minted)

    def statistics(self, principal: str | None = None) -> Statistics:
        return self._store.statistics(principal)

    def close(self) -> None:
        self._store.close()

    # ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _has_plain_prompt(self, turn: Turn) -> bool:
        return not _is_mark(turn.arguments) and not is_larger((turn.prompt, turn.arguments), self._max_bytes)

    def _is_plain(self, answer: Answer) -> bool:
        whole = (answer.text, answer.result, answer.error)
        return not _is_mark(answer.result) and not is_larger(whole, self._max_bytes)

    def _with_head_of_prompt(self, turn: Turn, bodies: list[StoredFile]) -> Turn:
        prompt, arguments = self._in_place_of(
            turn,
            "prompt",
            turn.prompt,
            turn.arguments,
            whole=lambda: encode_prompt(turn.prompt, turn.arguments, self_contained=True),
            bodies=bodies,
        )
        return turn if arguments is turn.arguments else turn.changed(prompt=prompt, arguments=arguments)

    def _with_head_of_answer(self, turn: Turn, bodies: list[StoredFile]) -> Turn:
        answer = turn.answer
        if answer is None:
            return turn
        text, result = self._in_place_of(
            turn,
            "answer",
            answer.text,
            answer.result,
            answer.error,
            whole=lambda: encode_answer(answer, self_contained=True),
            bodies=bodies,
        )
        if result is answer.result:
            return turn
        error = None if _is_elsewhere(result) else answer.error
        return turn.changed(answer=Answer(text=text, result=result, error=error))

    def _in_place_of(
        self,
        turn: Turn,
        part: str,
        text: str,
        value: Json,
        error: Json = None,
        *,
        whole: Callable[[], StoredMessage],
        bodies: list[StoredFile],
    ) -> tuple[str, Json]:
        """What the other store is given for `text` and `value`: themselves, unless the message is too large."""
        if is_larger((text, value, error), self._max_bytes):
            with encoded(turn.id):
                body = whole().body or ""
            kept = self.bodies.keep(turn.principal, f"perdure-{part}-of-{turn.id}", body)
            if kept is not None:
                bodies.append(kept)
                return self._head(text, kept), {_MARK: {"key": kept.key, "size": kept.size}}
        return text, {_MARK: {"value": value}} if _is_mark(value) else value

    def _head(self, text: str, kept: StoredFile) -> str:
        most = min(_LONGEST_HEAD, self._max_bytes)
        if len(text) <= most:
            return text
        return f"{text[:most]}\n\n[The first {most:,} of {len(text):,} characters. The whole: {kept.uri}]"

    # ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _whole(self, turn: Turn, *, or_head: bool) -> Turn:
        """`turn` as it was kept.

        A message whose body is gone for good is its head: nothing else of the conversation is the worse for it.

        Raises:
            StoreUnavailable: A body could not be read now, unless `or_head`.
        """
        if _is_mark(turn.arguments):
            turn = self._with_whole_prompt(turn, or_head=or_head)
        if turn.answer is not None and _is_mark(turn.answer.result):
            turn = turn.changed(answer=self._whole_answer(turn, turn.answer, or_head=or_head))
        return turn

    def _with_whole_prompt(self, turn: Turn, *, or_head: bool) -> Turn:
        mark = turn.arguments[_MARK]
        if _is_itself(mark):
            return turn.changed(arguments=mark["value"])
        body = self._body(turn, mark, or_head=or_head)
        try:
            whole = decode_prompt(StoredMessage("", body)) if body is not None else None
            if whole is not None:
                return turn.changed(prompt=whole.text, arguments=whole.arguments)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._say_lost(turn, error)
        return turn.changed(arguments={})

    def _whole_answer(self, turn: Turn, answer: Answer, *, or_head: bool) -> Answer:
        mark = answer.result[_MARK]
        if _is_itself(mark):
            return replace(answer, result=mark["value"])
        body = self._body(turn, mark, or_head=or_head)
        try:
            if body is not None:
                return decode_answer(StoredMessage("", body))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._say_lost(turn, error)
        return Answer(text=answer.text)

    def _body(self, turn: Turn, mark: Json, *, or_head: bool) -> str | None:
        """None if it is gone, or may be given up for now."""
        try:
            match mark:
                case {"key": str(key), "size": int(size)}:
                    return self.bodies.read(turn.principal, key, size)
                case _:
                    raise FileMissing("It is not said where it is.")
        except FileMissing as error:
            self._say_lost(turn, error)
        except StoreUnavailable as error:
            if not or_head:
                raise
            self.bodies.say("message.head_only", "A history has only the head of a large message", error)
        return None

    def _say_lost(self, turn: Turn, error: Exception) -> None:
        log.error(
            "message.whole_missing",
            what=f"The whole of a large message of turn {turn.id} is missing ({error}); its first part is there.",
            remedy="put back a backup of the file store.",
        )


def _is_whole(turn: Turn) -> bool:
    return not _is_mark(turn.arguments) and (turn.answer is None or not _is_mark(turn.answer.result))


def _is_mark(value: Json) -> bool:
    return isinstance(value, dict) and _MARK in value


def _is_itself(mark: Json) -> bool:
    return isinstance(mark, dict) and "value" in mark


def _is_elsewhere(result: Json) -> bool:
    return _is_mark(result) and not _is_itself(result[_MARK])


def _given_out(files: "list[StoredFile] | tuple[StoredFile, ...]") -> tuple[StoredFile, ...]:
    return tuple(file for file in files if not Bodies.is_one(file))
