"""One tool call on its way through perdure: begun, given its history, finished, announced.

Every seam drives this same object. It never raises for a fault of the store: the call goes on without memory, and the
fault is logged and named in the result.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from perdure.errors import FileMissing, PerdureError, StoreMisconfigured, StoreUnavailable, TurnConflict
from perdure.middleware.announcement import announced, answer_of, is_error, is_final, is_question
from perdure.middleware.call_files import CallFiles, Report
from perdure.middleware.call_reader import META_CONTINUATION_ID, Reading, ToolRequest, prompt_fits, read_call
from perdure.middleware.call_steps import CallSteps, Step, Waits
from perdure.middleware.idempotency import still_running, turn_id_of, used_otherwise
from perdure.middleware.persistence.copied_turns import shared
from perdure.middleware.persistence.history import Conversation, History, HistoryState
from perdure.middleware.persistence.turn import (
    Answer,
    BegunTurn,
    FinishedTurn,
    JsonObject,
    Outcome,
    Turn,
    WaitingHistory,
    Window,
    new_turn_id,
)
from perdure.middleware.persistence.wiring import Runtime, redactor_for, roots_for
from perdure.middleware.request_state import SEALED_BY_SDK, Binding, OpenTurn, is_envelope, opened, wrapped
from perdure.middleware.result_ids import ResultIds
from perdure.middleware.tool_schema import CONTINUATION_ID, satisfies, takes_continuation_id
from perdure.settings import Acknowledge, Announce, HistoryMode, Policy

__all__ = ["PersistedCall", "fault_code"]

_MOST_ATTEMPTS = 10
"""Turns under one idempotency key that have failed, one after the other."""


class PersistedCall:
    def __init__(self, runtime: Runtime, request: ToolRequest, policy: Policy) -> None:
        self.request = request
        self.policy = policy
        self.history = History()
        self.fault: Exception | None = None
        self.refusal: PerdureError | None = None
        """Set by `begin`: the body must not run. An argument names a file that this caller does not have, or the
        idempotency key was used for another call."""
        self.replayed: JsonObject | None = None
        """Set by `begin`: the result that is kept of this same call. The body must not run."""
        self._runtime = runtime
        self._engine = runtime.engine
        self._reading: Reading = read_call(request, policy, runtime.settings, self._engine.clock.now())
        self._turn: Turn = self._reading.turn
        self._redactor = redactor_for(policy.redact, policy.redact_patterns)
        self._steps = CallSteps(runtime, file_seconds=policy.file_timeout)
        self._arguments = self._turn.arguments if policy.strip_id else request.arguments
        self._own_ids = ResultIds.at(policy.id_path) if policy.id_path else None
        self._result: JsonObject | None = None
        self._asks = False
        """The tool wants something of the client first: the call, and its turn, go on with the next leg."""
        self._own_state: str | None = None
        """The tool's, with its question."""
        self._envelope: str | None = None
        self._ended_before = False
        """A turn under this id has failed or was given up."""
        self._attempt = 0
        self._begun_before = False
        """The call was sent before under its idempotency key."""
        self._is_later_leg = False
        """The client answers a question of the tool's: an open turn is what it goes on with."""
        self._is_to_be_recorded = True
        self._finished: FinishedTurn | None = None
        self._turn_fault: Exception | None = None
        """Why the store has not taken the turn, last."""
        self._intent_waits = False
        """The turn's intent is in the spool, to be sent before its end."""
        self._waits = False
        """The whole turn is in the spool, to be sent later."""
        self._skipped: str | None = None
        roots = roots_for(policy.file_roots, runtime.own_folder)
        for error in roots.refused:
            runtime.say("file.root_refused", error)
        self._files = CallFiles(
            runtime.keeper,
            self._turn.principal,
            policy,
            roots,
            max_total_bytes=runtime.settings.max_total_bytes,
        )

    def report_to(self, reporter: Callable[[], Report | None]) -> None:
        """Where to tell how far the work on a large file is."""
        if self.policy.files:
            try:
                self._files.report = reporter()
            except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
                self._runtime.say("progress.not_reported", error)

    # ── before the body ──────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        self._steps.take(self._begin_steps())

    async def begin_async(self) -> None:
        await self._steps.take_async(self._begin_steps())

    def _begin_steps(self) -> "Iterator[Step[Any]]":
        window = Window(self.policy.max_turns, self.policy.max_tokens)
        begin = Step(
            work=lambda: self._engine.begin(self._turn, window, self._redactor),
            then=self._was_begun,
            failed=self._not_begun,
        )
        if is_envelope(self.request.request_state):
            yield Step(work=self._open_turn, then=self._go_on_with, failed=self._not_gone_on, waits=Waits.DISK)
        elif self._key is not None:
            self._turn = self._turn.changed(id=self._next_id())
        yield begin
        while self._ended_before and self._attempt < _MOST_ATTEMPTS:
            self._attempt += 1
            self._turn = self._turn.changed(id=self._next_id(), started_at=self._engine.clock.now(), place=None)
            yield begin
        if self._begun_before and self.policy.replay:
            yield Step(work=self._kept_turn, then=self._replay, failed=self._not_replayed)
        if self.refusal is not None or self.replayed is not None:
            return
        if self._may_be_deferred:
            yield Step(
                work=lambda: self._deferred_with_history(window),
                then=self._was_deferred,
                failed=self._not_deferred,
                waits=Waits.DISK,
            )
        if self._files.are_named_in(self._reading.turn.arguments):
            yield Step(
                work=lambda: self._files.brought_back(self._arguments, self.request.input_schema),
                then=self._was_brought_back,
                failed=self._refuse,
                waits=Waits.FILES,
            )

    def _was_begun(self, stored: tuple[Turn, BegunTurn]) -> None:
        turn, begun = stored
        if not all(isinstance(turn, Turn) for turn in shared(begun.history)):
            raise StoreUnavailable("The store gave a history that is none.", remedy="look at the store.")
        state = HistoryState.LOADED if begun.history or begun.omitted else HistoryState.NEW
        history = History(begun.history, state=state, omitted=begun.omitted)
        self._turn = turn.changed(continuation_id=begun.continuation_id, place=begun.place)
        self.history = history
        # The client answers once more what failed or was given up before: the first ending of a turn stands. What was
        # answered was answered: then it only asks for a reply that it lost.
        self._ended_before = begun.replay and begun.outcome in (Outcome.FAILED, Outcome.CANCELLED)
        self._begun_before = begun.replay and self._key is not None

    @property
    def _key(self) -> str | None:
        return self._reading.idempotency_key

    def _next_id(self) -> str:
        if self._key is None:
            return new_turn_id(self._engine.clock.now())
        return turn_id_of(self._turn.principal, self._key, self._attempt)

    def _kept_turn(self) -> Turn | None:
        place = self._turn.place or 1
        kept = self._engine.turns(self._turn.principal, self._turn.continuation_id, after=place - 1, limit=1)
        return kept[0] if kept and kept[0].id == self._turn.id else None

    def _replay(self, kept: Turn | None) -> None:
        if kept is None or kept.outcome is Outcome.INTERRUPTED:
            return  # It never came to its end: this is it.
        if self._is_later_leg and kept.answer is None:
            return  # It waits for this very leg.
        self._is_to_be_recorded = False
        if kept.answer is None or not isinstance(kept.answer.result, dict):
            self.fault = self.refusal = still_running(self._key or "")
            return
        self.replayed = kept.answer.result
        self._finished = FinishedTurn(
            continuation_id=self._turn.continuation_id, place=kept.place or 1, outcome=kept.outcome, files=kept.files
        )

    def _not_replayed(self, error: Exception) -> None:
        self.fault = error
        self._is_to_be_recorded = False
        self._runtime.say("turn.not_replayed", error)
        self.refusal = StoreUnavailable("The answer that is kept could not be read now.", remedy="try again later.")

    @property
    def _may_be_deferred(self) -> bool:
        """The store has not taken the turn, has not refused it for good either, and there is a spool that may."""
        fault = self._turn_fault
        for_good = isinstance(fault, PerdureError) and not isinstance(fault, StoreUnavailable)
        return fault is not None and not for_good and self._engine.spool is not None

    def _deferred_with_history(self, window: Window) -> WaitingHistory:
        self._engine.defer(self._turn, self._redactor)
        try:
            return self._engine.waiting_history(self._turn, window)
        except Exception as error:  # noqa: BLE001 - the turn waits all the same
            self._runtime.say("history.not_read", error)
            return WaitingHistory()

    def _was_deferred(self, waiting: WaitingHistory) -> None:
        self._intent_waits = True
        if waiting.complete:
            state = HistoryState.LOADED if waiting.turns or waiting.omitted else HistoryState.NEW
            self.history = History(waiting.turns, state=state, omitted=waiting.omitted)
        elif self._reading.continues:
            self.history = History(waiting.turns, state=HistoryState.UNAVAILABLE)

    def _not_begun(self, error: Exception) -> None:
        self._ended_before = self._begun_before = False  # That was another attempt, if any.
        if isinstance(error, TurnConflict) and self._key is not None:
            self.fault = self.refusal = used_otherwise(self._key)
            self._is_to_be_recorded = False
            return
        self._not_taken(error)
        if self._reading.continues:
            self.history = History(state=HistoryState.UNAVAILABLE)

    def _not_taken(self, error: Exception) -> None:
        self.fault = self._turn_fault = error
        self._runtime.say("turn.deferred" if self._may_be_deferred else "turn.not_kept", error)

    def _not_deferred(self, error: Exception) -> None:
        """The spool is full or broken too: what is wrong with the store is known already."""
        self.fault = error
        self._runtime.say("turn.not_kept", error)

    def _was_brought_back(self, arguments: JsonObject) -> None:
        self._arguments = arguments

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, FileMissing):
            self.refusal = error
            return
        # Where it would have been is for the operator to know.
        self._runtime.say("file.not_brought_back", error)
        uris = ", ".join(self._files.uris_in(self._reading.turn.arguments))
        self.refusal = StoreUnavailable(f"{uris} could not be brought back now.", remedy="try again later.")

    @property
    def changed_arguments(self) -> bool:
        """Whether the tool's own arguments are others than the client's: local paths for storage URIs, no id."""
        return self._arguments is not self.request.arguments

    @property
    def conversation(self) -> Conversation:
        return Conversation(self._turn.continuation_id, self._turn.id, self.history)

    def prompt_with_history(self, prompt: str) -> str:
        """`prompt` as the tool's body gets it; the record keeps it as it was."""
        argument = self.prompt_argument
        if argument is None:
            return prompt
        longer = self.history.before(prompt)
        if longer is not prompt and not prompt_fits(self.request, argument, longer):
            self._skipped = f"the schema of the argument {argument!r} does not admit a longer text"
            return prompt
        return longer

    @property
    def prompt_argument(self) -> str | None:
        """The argument that takes the transcript; None if none does."""
        return self._reading.prompt_argument if self._reading.history_mode is HistoryMode.PROMPT else None

    @property
    def history_for_parameter(self) -> History:
        return self.history if self._reading.history_mode is HistoryMode.PARAMETER else History()

    def arguments_for_tool(self) -> JsonObject:
        """The wire arguments as the tool gets them: without what it does not know, with its files and history."""
        arguments = dict(self._arguments)
        if not self.request.declares_id:
            arguments.pop(CONTINUATION_ID, None)
        argument = self.prompt_argument
        if argument is not None and isinstance(prompt := arguments.get(argument), str):
            arguments[argument] = self.prompt_with_history(prompt)
        return arguments

    # ── after the body ───────────────────────────────────────────────────────────────────────────────────────

    def end_with_result(self, result: JsonObject, *, cancelled: bool = False) -> None:
        """The body gave a result, here in its wire form. `cancelled`: the client had given up on it."""
        result = self.with_id(result)
        if is_question(result) and not cancelled:
            self._asks, self._own_state = True, result.get("requestState")
        elif not is_final(result):
            # A task: the answer comes with a later call, which is a turn of its own.
            self._end(
                Outcome.CANCELLED, Answer(error={"type": "not_final", "message": str(result.get("resultType", "task"))})
            )
        elif cancelled:
            self._end(Outcome.CANCELLED, answer_of(result))
        elif is_error(result):
            self._end(Outcome.FAILED, answer_of(result))
        else:
            self._end(Outcome.ANSWERED, answer_of(result))
            self._result = result

    def with_id(self, result: JsonObject) -> JsonObject:
        """`result` with the conversation's id in place of the tool's own, where the policy says it has one.

        So it is recorded too: a history that showed the tool's id would lead a model to one that is dead.
        """
        if self._own_ids is None or not is_final(result):
            return result
        try:
            changed = self._own_ids.replaced(result, self._turn.continuation_id)
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self._runtime.say("result.id_not_replaced", error)
            return result
        schema = self.request.output_schema
        if changed is result or schema is None or "structuredContent" not in result:
            return changed
        fits = satisfies(schema, changed["structuredContent"])
        return changed if fits else {**changed, "structuredContent": result["structuredContent"]}

    def end_with_error(self, error: BaseException, *, cancelled: bool = False) -> None:
        if cancelled:
            self._end(Outcome.CANCELLED, Answer())
        else:
            self._end(Outcome.FAILED, Answer(error={"type": type(error).__name__, "message": _message(error)}))

    def _end(self, outcome: Outcome, answer: Answer) -> None:
        self._turn = self._turn.ended(outcome, self._engine.clock.now(), answer)

    def finish(self) -> None:
        self._steps.take(self._finish_steps())

    async def finish_async(self) -> None:
        await self._steps.take_async(self._finish_steps())

    def _finish_steps(self) -> "Iterator[Step[Any]]":
        if not self._is_to_be_recorded:
            return
        if self._asks:
            yield Step(work=self._enveloped, then=self._leaves_with, failed=self._not_carried, waits=Waits.DISK)
            return
        result = self._result
        if result is not None and self._files.might_be_named_in(result):
            yield Step(
                work=lambda: self._files.keep(result),
                then=lambda _: None,
                failed=self._not_all_kept,
                waits=Waits.FILES,
            )
            if self._files.are_on_their_way and self._engine.spool is not None:
                yield Step(work=self._files.rescue, then=lambda _: None, failed=self._not_all_kept, waits=Waits.DISK)
            self._were_kept(result)
        if self._turn.place is None:
            self._turn = self._turn.changed(deferred=True)
        to_store: Step[Any] = Step(
            work=lambda: self._engine.finish(self._turn, self._redactor),
            then=self._was_finished,
            failed=self._not_taken,
        )
        # A turn whose intent waits must not overtake those before it, and goes the same way.
        by_spool = self._intent_waits or (
            self.policy.acknowledge is Acknowledge.SPOOL and self._engine.spool is not None
        )
        if not by_spool:
            yield to_store
        if self._finished is None and (by_spool or self._may_be_deferred):
            yield Step(
                work=lambda: self._engine.defer(self._turn, self._redactor),
                then=lambda _: self._was_spooled(),
                failed=self._not_deferred,
                waits=Waits.DISK,
            )
        if self._finished is None and not self._waits and by_spool:
            yield to_store  # Out of its order is better than not at all.
        if self._finished is not None and self._files.are_to_be_signed:
            yield Step(work=self._files.sign, then=lambda _: None, failed=self._not_signed, waits=Waits.FILES)

    def _was_spooled(self) -> None:
        self._waits = True

    def _not_signed(self, error: Exception) -> None:
        """The client gets storage URIs instead."""
        self.fault = error
        self._runtime.say("file.not_signed", error)

    def _not_all_kept(self, error: Exception) -> None:
        self.fault = error
        self._runtime.say("file.not_kept", error)

    def _were_kept(self, result: JsonObject) -> None:
        """Those that could be, in the file store or in the spool."""
        files = self._files.settle()
        if self._files.away is not None:
            self.fault = self._files.away
            self._runtime.say("file.deferred", self._files.away)
        self._turn = self._turn.changed(
            answer=answer_of(self._files.rewritten(result, self.request.output_schema)), files=files
        )
        self._runtime.say_left_alone(self.request.tool, self._files.left_for_their_place())

    def _was_finished(self, finished: FinishedTurn) -> None:
        if (finished.continuation_id, finished.place) != (self._turn.continuation_id, self._turn.place):
            self._turn = self._turn.changed(continuation_id=finished.continuation_id, place=finished.place)
        self._finished = finished

    def announce(self, result: JsonObject) -> JsonObject:
        """`result` as the client gets it."""
        try:
            if self._asks:
                return self._asked(result)
            return self._announced(result) if is_final(result) else result
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self._runtime.say("result.not_announced", error)
            return result

    def _asked(self, result: JsonObject) -> JsonObject:
        """`result`, a question, with the turn in its request state; unless a seam further in has put it there."""
        if self._envelope is None or result.get("requestState") != self._own_state:
            return result
        return {**result, "requestState": self._envelope}

    def _announced(self, result: JsonObject) -> JsonObject:
        if self._is_kept:
            # Without the turn there is no record of its files either: then the paths are all there is.
            result = self._files.rewritten(result, self.request.output_schema, for_client=True)
        where, own = self.policy.announce, self._own_ids
        if own is not None and Announce.TEXT in where and own.are_in_text_of(result):
            where -= {Announce.TEXT}  # It will stand in the tool's own text.
        return announced(
            self.with_id(result),
            where=where,
            continuation_id=self._turn.continuation_id,
            meta=self._meta(),
            in_structured=self.request.output_schema_is_known
            and takes_continuation_id(self.request.output_schema, widened=self.request.schema_widened),
        )

    @property
    def _is_kept(self) -> bool:
        """The turn is acknowledged: by the store, or by the spool."""
        return self._finished is not None or self._waits

    def _meta(self) -> JsonObject:
        history: JsonObject = {
            "state": self.history.state.value,
            "turns": len(self.history),
            "omitted": self.history.omitted,
        }
        if self._skipped:
            history["skipped"] = self._skipped
        meta: JsonObject = {
            META_CONTINUATION_ID: self._turn.continuation_id,
            "perdure/turn-id": self._turn.id,
            "perdure/persisted": self._is_kept,
            "perdure/history": history,
        }
        if self._waits:
            meta["perdure/deferred"] = True
        if self._is_kept:
            meta |= self._files.meta(self._finished.files if self._finished is not None else self._turn.files)
        else:
            meta |= self._files.meta(())
        if self.fault is not None:
            meta["perdure/fault"] = fault_code(self.fault)
            if isinstance(self.fault, StoreMisconfigured):
                meta["perdure/remedy"] = self.fault.remedy  # words of ours: no address and no key is ever in them
        return meta

    # ── from one leg to the next ─────────────────────────────────────────────────────────────────────────────

    def _open_turn(self) -> OpenTurn:
        return opened(self.request.request_state or "", self._binding, self._signing_key, self._engine.clock.now())

    def _go_on_with(self, turn: OpenTurn) -> None:
        self._turn = self._turn.changed(
            id=turn.id,
            continuation_id=turn.continuation_id,
            minted=turn.minted,
            started_at=turn.started_at,
            place=turn.place,
        )
        self._reading = replace(self._reading, continues=turn.continues)
        self._is_later_leg = True

    def _not_gone_on(self, error: Exception) -> None:
        """This leg is a turn of its own."""
        self.fault = error
        self._runtime.say("request_state.refused", error)

    def _enveloped(self) -> str:
        turn = OpenTurn(
            id=self._turn.id,
            continuation_id=self._turn.continuation_id,
            minted=self._turn.minted,
            continues=self._reading.continues,
            started_at=self._turn.started_at,
            place=self._turn.place,
        )
        return wrapped(self._own_state, turn, self._binding, self._signing_key, self._engine.clock.now())

    def _leaves_with(self, envelope: str) -> None:
        self._envelope = envelope

    def _not_carried(self, error: Exception) -> None:
        """The next leg will be a turn of its own."""
        self._runtime.say("request_state.not_carried", error)

    @property
    def _binding(self) -> Binding:
        return Binding(principal=self._turn.principal, tool=self.request.tool, arguments=self.request.arguments)

    @property
    def _signing_key(self) -> bytes:
        return SEALED_BY_SDK if self.request.request_state_is_sealed else self._runtime.signing_key


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception's own code may be what is broken
        return "(it has no message that could be read)"


def fault_code(fault: Exception) -> str:
    """What a client may know of a fault: its kind. Paths and addresses are for the operator's log."""
    return fault.code if isinstance(fault, PerdureError) else "internal_error"
