"""What happens to the turn of a call before its tool's body runs: it is made known, and given its history and files."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from perdure.errors import ConversationFull, FileMissing, RateLimited, StoreUnavailable, TurnConflict
from perdure.middleware.call_files import stored_files_in
from perdure.middleware.call_legs import CallLegs
from perdure.middleware.call_steps import Step, Waits
from perdure.middleware.call_turn import CallTurn
from perdure.middleware.idempotency import still_running, turn_id_of, used_otherwise
from perdure.middleware.persistence.copied_turns import shared
from perdure.middleware.persistence.history import NOTHING_BEFORE, History, HistoryState
from perdure.middleware.persistence.turn import (
    BegunTurn,
    FinishedTurn,
    JsonObject,
    Outcome,
    Turn,
    WaitingHistory,
    Window,
    new_turn_id,
)
from perdure.middleware.request_state import OpenTurn, is_envelope

__all__ = ["TurnBeginning"]

_MOST_ATTEMPTS = 10
"""Turns under one idempotency key that have failed, one after the other."""


class TurnBeginning:
    def __init__(self, call: CallTurn) -> None:
        self._call = call
        self._runtime = call.runtime
        self._engine = call.engine
        self._ended_before = False
        """A turn under this id has failed or was given up."""
        self._attempt = 0
        self._begun_before = False
        """The call was sent before under its idempotency key."""
        self._is_later_leg = False
        """The client answers a question of the tool's: an open turn is what it goes on with."""
        self._full: ConversationFull | None = None

    def steps(self) -> "Iterator[Step[Any]]":
        call = self._call
        window = call.plan.window
        begin = Step(
            work=lambda: self._engine.begin(call.turn, window, call.plan.redactor),
            then=self._was_begun,
            failed=self._not_begun,
        )
        if is_envelope(call.request.request_state):
            yield Step(work=CallLegs(call).opened, then=self._go_on_with, failed=self._not_gone_on, waits=Waits.DISK)
        elif self._key is not None:
            call.turn = call.turn.changed(id=self._next_id())
        if self._is_within_rate():
            yield begin
        while self._ended_before and self._attempt < _MOST_ATTEMPTS:
            self._attempt += 1
            call.turn = call.turn.changed(id=self._next_id(), started_at=self._engine.clock.now(), place=None)
            yield begin
        if self._begun_before and call.policy.replay:
            yield Step(work=self._kept_turn, then=self._replay, failed=self._not_replayed)
        if call.refusal is not None or call.replayed is not None:
            return
        if (full := self._full) is not None:
            yield Step(
                work=lambda: self._engine.newest(call.turn, full.place, window),
                then=lambda turns: self._was_read(turns, full.place),
                failed=lambda error: self._runtime.say("history.not_read", error),
            )
        if call.is_to_be_recorded:
            call.held = self._engine.running.hold(call.turn)
        if call.may_be_deferred:
            yield Step(
                work=lambda: self._deferred_with_history(window),
                then=self._was_deferred,
                failed=call.was_not_deferred,
                waits=Waits.DISK,
            )
        if call.policy.files and stored_files_in(call.reading.turn.arguments):
            yield Step(
                work=lambda: call.files.brought_back(call.arguments, call.plan.shape.input_schema),
                then=self._was_brought_back,
                failed=self._refuse,
                waits=Waits.FILES,
            )

    def _was_begun(self, stored: tuple[Turn, BegunTurn]) -> None:
        turn, begun = stored
        history = NOTHING_BEFORE
        if begun.place > 1:
            if not all(isinstance(turn, Turn) for turn in shared(begun.history)):
                raise StoreUnavailable("The store gave a history that is none.", remedy="look at the store.")
            history = History(begun.history, state=HistoryState.LOADED, omitted=begun.omitted)
        self._call.turn = turn.changed(continuation_id=begun.continuation_id, place=begun.place)
        self._call.history = history
        # The client answers once more what failed or was given up before: the first ending of a turn stands. What was
        # answered was answered: then it only asks for a reply that it lost.
        self._ended_before = begun.replay and begun.outcome in (Outcome.FAILED, Outcome.CANCELLED)
        self._begun_before = begun.replay and self._key is not None

    def _not_begun(self, error: Exception) -> None:
        call = self._call
        self._ended_before = self._begun_before = False  # That was another attempt, if any.
        if isinstance(error, TurnConflict) and self._key is not None:
            call.fault = call.refusal = used_otherwise(self._key)
            call.is_to_be_recorded = False
            return
        if isinstance(error, ConversationFull):
            self._full = error
            self._is_over_a_limit(error)
            return
        call.was_not_taken(error)
        if call.reading.continues:
            call.history = History(state=HistoryState.UNAVAILABLE)

    # A limit is reached: the call goes on as ever, and is not kept.

    def _is_within_rate(self) -> bool:
        call, per_minute = self._call, self._runtime.settings.max_turns_per_minute
        if per_minute is None or self._is_later_leg:
            return True
        seconds = self._runtime.rate.seconds_to_wait(call.turn.principal, per_minute)
        if seconds == 0:
            return True
        over = RateLimited(call.turn.principal, seconds)
        self._is_over_a_limit(over)
        if self._key is not None and call.policy.replay:
            call.refusal = over  # It may have run before: that nobody looked must not make it run twice.
        return False

    def _is_over_a_limit(self, limit: ConversationFull | RateLimited) -> None:
        call = self._call
        call.is_to_be_recorded = False
        call.fault = limit
        self._runtime.say("turn.not_kept", limit)
        if call.reading.continues:
            call.history = History(state=HistoryState.UNAVAILABLE)

    def _was_read(self, turns: tuple[Turn, ...], last_place: int) -> None:
        self._call.history = History(turns, state=HistoryState.LOADED, omitted=last_place - len(turns))

    # What an earlier leg has left.

    def _go_on_with(self, turn: OpenTurn) -> None:
        call = self._call
        call.turn = call.turn.changed(
            id=turn.id,
            continuation_id=turn.continuation_id,
            minted=turn.minted,
            started_at=turn.started_at,
            place=turn.place,
        )
        call.reading = replace(call.reading, continues=turn.continues)
        self._is_later_leg = True

    def _not_gone_on(self, error: Exception) -> None:
        """This leg is a turn of its own."""
        self._call.fault = error
        self._runtime.say("request_state.refused", error)

    # A call that is sent again, under the idempotency key of the first time.

    @property
    def _key(self) -> str | None:
        return self._call.reading.idempotency_key

    def _next_id(self) -> str:
        if self._key is None:
            return new_turn_id(self._engine.clock.now())
        return turn_id_of(self._call.turn.principal, self._key, self._attempt)

    def _kept_turn(self) -> Turn | None:
        call = self._call
        place = call.turn.place or 1
        kept = self._engine.turns(call.turn.principal, call.turn.continuation_id, after=place - 1, limit=1)
        return kept[0] if kept and kept[0].id == call.turn.id else None

    def _replay(self, kept: Turn | None) -> None:
        call = self._call
        if kept is None or kept.outcome is Outcome.INTERRUPTED:
            return  # It never came to its end: this is it.
        if self._is_later_leg and kept.answer is None:
            return  # It waits for this very leg.
        call.is_to_be_recorded = False
        if kept.answer is None or not isinstance(kept.answer.result, dict):
            call.fault = call.refusal = still_running(self._key or "")
            return
        call.replayed = kept.answer.result
        call.finished = FinishedTurn(
            continuation_id=call.turn.continuation_id, place=kept.place or 1, outcome=kept.outcome, files=kept.files
        )

    def _not_replayed(self, error: Exception) -> None:
        call = self._call
        call.fault = error
        call.is_to_be_recorded = False
        self._runtime.say("turn.not_replayed", error)
        call.refusal = StoreUnavailable("The answer that is kept could not be read now.", remedy="try again later.")

    # The store has not taken the turn: it waits in the spool.

    def _deferred_with_history(self, window: Window) -> WaitingHistory:
        call = self._call
        self._engine.defer(call.turn, call.plan.redactor)
        try:
            return self._engine.waiting_history(call.turn, window)
        except Exception as error:  # noqa: BLE001 - the turn waits all the same
            self._runtime.say("history.not_read", error)
            return WaitingHistory()

    def _was_deferred(self, waiting: WaitingHistory) -> None:
        call = self._call
        call.intent_waits = True
        if waiting.complete:
            state = HistoryState.LOADED if waiting.turns or waiting.omitted else HistoryState.NEW
            call.history = History(waiting.turns, state=state, omitted=waiting.omitted)
        elif call.reading.continues:
            call.history = History(waiting.turns, state=HistoryState.UNAVAILABLE)

    # The files that its arguments name.

    def _was_brought_back(self, arguments: JsonObject) -> None:
        self._call.arguments = arguments

    def _refuse(self, error: Exception) -> None:
        call = self._call
        if isinstance(error, FileMissing):
            call.refusal = error
            return
        # Where it would have been is for the operator to know.
        self._runtime.say("file.not_brought_back", error)
        uris = ", ".join(stored_files_in(call.reading.turn.arguments))
        call.refusal = StoreUnavailable(f"{uris} could not be brought back now.", remedy="try again later.")
