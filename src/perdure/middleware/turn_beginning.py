"""What happens to the turn of a call before its tool's body runs: it is made known, and given its history and files."""

from dataclasses import replace

from perdure.errors import ConversationFull, FileMissing, RateLimited, StoreUnavailable, TurnConflict
from perdure.middleware.call_files import may_name_stored_files, stored_files_in
from perdure.middleware.call_legs import CallLegs
from perdure.middleware.call_steps import CallSteps
from perdure.middleware.call_turn import CallTurn
from perdure.middleware.idempotency import still_running, turn_id_of, used_otherwise
from perdure.middleware.persistence.copied_turns import all_pass
from perdure.middleware.persistence.history import NOTHING_BEFORE, History, HistoryState
from perdure.middleware.persistence.turn import BegunTurn, FinishedTurn, Outcome, Turn, WaitingHistory, new_turn_id
from perdure.middleware.request_state import is_envelope

__all__ = ["TurnBeginning"]

_MOST_ATTEMPTS = 10
"""Turns under one idempotency key that have failed, one after the other."""


class TurnBeginning:
    _ended_before = False
    """A turn under this id has failed or was given up."""
    _attempt = 0
    _begun_before = False
    """The call was sent before under its idempotency key."""
    _is_later_leg = False
    """The client answers a question of the tool's: an open turn is what it goes on with."""
    _full: ConversationFull | None = None

    def __init__(self, call: CallTurn, steps: CallSteps) -> None:
        self._call = call
        self._steps = steps
        self._runtime = call.runtime
        self._engine = call.engine
        self._key = call.reading.idempotency_key

    async def run(self) -> None:
        call = self._call
        state = call.request.request_state
        if state is not None and is_envelope(state):
            await self._go_on()
        elif self._key is not None:
            call.turn = call.turn.changed(id=self._next_id(self._key))
        per_minute = self._runtime.settings.max_turns_per_minute
        wanted = per_minute is None or self._is_within_rate(per_minute)
        while wanted:
            try:
                turn, begun = await self._steps.begin(call.turn, call.plan.window, call.plan.redactor)
                self._was_begun(turn, begun)
            except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
                self._was_not_begun(error)
            wanted = self._ended_before and self._attempt < _MOST_ATTEMPTS
            if wanted:
                self._attempt += 1
                again = self._next_id(self._key)
                call.turn = call.turn.changed(id=again, started_at=self._engine.clock.now(), place=None)
        if self._begun_before and call.policy.replay:
            await self._replay()
        if call.refusal is not None or call.replayed is not None:
            return
        if self._full is not None:
            await self._read_newest(self._full)
        if call.is_to_be_recorded:
            call.held = self._engine.running.hold(call.turn)
        if call.turn_fault is not None and call.may_be_deferred:
            await self._defer()
        if call.policy.files and may_name_stored_files(call.reading.turn.arguments):
            await self._bring_files_back(stored_files_in(call.reading.turn.arguments))

    def _was_begun(self, turn: Turn, begun: BegunTurn) -> None:
        call = self._call
        history = NOTHING_BEFORE
        if begun.place > 1:
            if not all_pass(_is_turn, begun.history):
                raise StoreUnavailable("The store gave a history that is none.", remedy="look at the store.")
            history = History(begun.history, state=HistoryState.LOADED, omitted=begun.omitted)
        call.turn = turn.placed(begun.continuation_id, begun.place)
        call.history = history
        # The client answers once more what failed or was given up before: the first ending of a turn stands. What
        # was answered was answered: then it only asks for a reply that it lost.
        self._ended_before = begun.replay and begun.outcome in (Outcome.FAILED, Outcome.CANCELLED)
        self._begun_before = begun.replay and self._key is not None

    def _was_not_begun(self, error: Exception) -> None:
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

    def _is_within_rate(self, per_minute: int) -> bool:
        call = self._call
        if self._is_later_leg:
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

    async def _read_newest(self, full: ConversationFull) -> None:
        call = self._call
        try:
            turns = await self._steps.store(self._engine.newest, call.turn, full.place, call.plan.window)
            call.history = History(turns, state=HistoryState.LOADED, omitted=full.place - len(turns))
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self._runtime.say("history.not_read", error)

    # What an earlier leg has left.

    async def _go_on(self) -> None:
        call = self._call
        try:
            turn = await self._steps.disk(CallLegs(call).opened)
        except Exception as error:  # noqa: BLE001 - this leg is a turn of its own
            call.fault = error
            self._runtime.say("request_state.refused", error)
            return
        call.turn = call.turn.changed(
            id=turn.id,
            continuation_id=turn.continuation_id,
            minted=turn.minted,
            started_at=turn.started_at,
            place=turn.place,
        )
        call.reading = replace(call.reading, continues=turn.continues)
        self._is_later_leg = True

    # A call that is sent again, under the idempotency key of the first time.

    def _next_id(self, key: str | None) -> str:
        if key is None:
            return new_turn_id(self._engine.clock.now())
        return turn_id_of(self._call.turn.principal, key, self._attempt)

    async def _replay(self) -> None:
        call = self._call
        place = call.turn.place or 1
        try:
            found = await self._steps.store(
                self._engine.turns, call.turn.principal, call.turn.continuation_id, after=place - 1, limit=1
            )
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            call.fault = error
            call.is_to_be_recorded = False
            self._runtime.say("turn.not_replayed", error)
            call.refusal = StoreUnavailable("The answer that is kept could not be read now.", remedy="try again later.")
            return
        kept = found[0] if found and found[0].id == call.turn.id else None
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

    # The store has not taken the turn: it waits in the spool.

    async def _defer(self) -> None:
        call = self._call
        try:
            waiting = await self._steps.disk(self._deferred_with_history)
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            call.was_not_deferred(error)
            return
        call.intent_waits = True
        if waiting.complete:
            state = HistoryState.LOADED if waiting.turns or waiting.omitted else HistoryState.NEW
            call.history = History(waiting.turns, state=state, omitted=waiting.omitted)
        elif call.reading.continues:
            call.history = History(waiting.turns, state=HistoryState.UNAVAILABLE)

    def _deferred_with_history(self) -> WaitingHistory:
        call = self._call
        self._engine.defer(call.turn, call.plan.redactor)
        try:
            return self._engine.waiting_history(call.turn, call.plan.window)
        except Exception as error:  # noqa: BLE001 - the turn waits all the same
            self._runtime.say("history.not_read", error)
            return WaitingHistory()

    # The files that its arguments name.

    async def _bring_files_back(self, uris: list[str]) -> None:
        if not uris:
            return
        call = self._call
        files = call.files
        try:
            call.arguments = await self._steps.files(files.brought_back, call.arguments, call.plan.shape.input_schema)
        except FileMissing as error:
            call.refusal = error
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            # Where it would have been is for the operator to know.
            self._runtime.say("file.not_brought_back", error)
            named = ", ".join(uris)
            call.refusal = StoreUnavailable(f"{named} could not be brought back now.", remedy="try again later.")


def _is_turn(turn: object) -> bool:
    return isinstance(turn, Turn)
