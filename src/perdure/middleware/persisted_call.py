"""One tool call on its way through perdure: begun, given its history, finished, announced.

Every seam drives this same object. Here is what the tool and the client see; what is kept of it is its `CallTurn`. It
never raises for a fault of the store: the call goes on without memory, and the fault is logged and named in the result.
"""

from collections.abc import Coroutine
from typing import Any

from perdure.errors import ConversationFull, PerdureError, RateLimited, StoreMisconfigured
from perdure.middleware.announcement import announced, answer_of, is_final, is_question
from perdure.middleware.call_reader import ToolRequest, prompt_fits
from perdure.middleware.call_steps import CallSteps
from perdure.middleware.call_turn import CallTurn
from perdure.middleware.meta_keys import (
    META_CONTINUATION_ID,
    META_DEFERRED,
    META_FAULT,
    META_HISTORY,
    META_PERSISTED,
    META_REMEDY,
    META_RETRY_AFTER,
    META_TURN_ID,
)
from perdure.middleware.persistence.history import NOTHING_BEFORE, Conversation, History
from perdure.middleware.persistence.runtime import Runtime
from perdure.middleware.persistence.turn import Answer, JsonObject, Outcome
from perdure.middleware.tool_plan import ToolPlan
from perdure.middleware.tool_schema import CONTINUATION_ID, satisfies
from perdure.middleware.turn_beginning import TurnBeginning
from perdure.middleware.turn_ending import end_turn
from perdure.settings import Announce, HistoryMode

__all__ = ["PersistedCall", "fault_code"]


class PersistedCall:
    _skipped: str | None = None
    """Why the tool was not given its history."""

    def __init__(self, runtime: Runtime, request: ToolRequest, plan: ToolPlan) -> None:
        self.request = request
        self.policy = plan.policy
        self.kept = CallTurn(runtime, request, plan)
        """What seams look at after `begin`: its `refusal`, and its `replayed` result."""
        self.steps = CallSteps(runtime, plan.policy.file_timeout, request.meta)
        """Tell whether they `have_waited`: then a cancelled call's body must not start."""
        self._plan = plan
        self._runtime = runtime

    # ── before the body ──────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        self.steps.in_place(self.begin_async())

    def begin_async(self) -> Coroutine[Any, Any, None]:
        return TurnBeginning(self.kept, self.steps).run()

    def arguments_for_tool(self) -> JsonObject:
        """The wire arguments as the tool gets them: without what it does not know, with its files and history.

        The very object of the request if it gets what the client sent.
        """
        arguments = self.kept.arguments
        if CONTINUATION_ID in arguments and not self._plan.shape.declares_id:
            arguments = {name: value for name, value in arguments.items() if name != CONTINUATION_ID}
        if self.kept.history is NOTHING_BEFORE:
            return arguments
        argument = self.prompt_argument
        if argument is not None and isinstance(prompt := arguments.get(argument), str):
            longer = self.prompt_with_history(prompt)
            if longer is not prompt:
                return {**arguments, argument: longer}
        return arguments

    @property
    def prompt_argument(self) -> str | None:
        """The argument that takes the transcript; None if none does."""
        reading = self.kept.reading
        return reading.prompt_argument if reading.history_mode is HistoryMode.PROMPT else None

    def prompt_with_history(self, prompt: str) -> str:
        """`prompt` as the tool's body gets it; the record keeps it as it was."""
        argument = self.prompt_argument
        if argument is None:
            return prompt
        longer = self.kept.history.before(prompt)
        if longer is not prompt and not prompt_fits(self._plan.shape.input_schema, argument, longer):
            self._skipped = f"the schema of the argument {argument!r} does not admit a longer text"
            return prompt
        return longer

    @property
    def history_for_parameter(self) -> History:
        return self.kept.history if self.kept.reading.history_mode is HistoryMode.PARAMETER else NOTHING_BEFORE

    def conversation(self) -> Conversation:
        """Where the body is, should it ask."""
        turn = self.kept.turn
        return Conversation(turn.continuation_id, turn.id, self.kept.history)

    # ── after the body ───────────────────────────────────────────────────────────────────────────────────────

    def end_with_result(self, result: JsonObject, *, cancelled: bool = False) -> None:
        """The body gave a result, here in its wire form. `cancelled`: the client had given up on it."""
        if self._plan.own_ids is not None:
            result = self.with_id(result)
        if is_final(result):
            if cancelled:
                self.kept.end(Outcome.CANCELLED, answer_of(result))
            elif result.get("isError"):
                self.kept.end(Outcome.FAILED, answer_of(result))
            else:
                self.kept.end(Outcome.ANSWERED, answer_of(result), result)
        elif is_question(result) and not cancelled:
            self.kept.ask(result.get("requestState"))
        else:
            # A task: the answer comes with a later call, which is a turn of its own.
            error = {"type": "not_final", "message": str(result.get("resultType", "task"))}
            self.kept.end(Outcome.CANCELLED, Answer(error=error))

    def end_with_error(self, error: BaseException, *, cancelled: bool = False) -> None:
        if cancelled:
            self.kept.end(Outcome.CANCELLED, Answer())
        else:
            described = {"type": type(error).__name__, "message": _message(error)}
            self.kept.end(Outcome.FAILED, Answer(error=described))

    def finish(self) -> None:
        self.steps.in_place(self.finish_async())

    def finish_async(self) -> Coroutine[Any, Any, None]:
        return end_turn(self.kept, self.steps)

    def with_id(self, result: JsonObject) -> JsonObject:
        """`result` with the conversation's id in place of the tool's own, where the policy says it has one.

        So it is recorded too: a history that showed the tool's id would lead a model to one that is dead.
        """
        own = self._plan.own_ids
        if own is None or not is_final(result):
            return result
        try:
            changed = own.replaced(result, self.kept.turn.continuation_id)
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self._runtime.say("result.id_not_replaced", error)
            return result
        schema = self._plan.shape.output_schema
        if changed is result or schema is None or "structuredContent" not in result:
            return changed
        fits = satisfies(schema, changed["structuredContent"])
        return changed if fits else {**changed, "structuredContent": result["structuredContent"]}

    def announce(self, result: JsonObject) -> JsonObject:
        """`result` as the client gets it."""
        kept, plan = self.kept, self._plan
        try:
            if kept.asks:
                return self._asked(result)
            if not is_final(result):
                return result
            if kept.touched_files is not None and kept.is_kept:
                # Without the turn there is no record of its files either: then the paths are all there is.
                result = kept.touched_files.rewritten(result, plan.shape.output_schema, for_client=True)
            where = plan.policy.announce
            if plan.own_ids is not None:
                if Announce.TEXT in where and plan.own_ids.are_in_text_of(result):
                    where -= {Announce.TEXT}  # It will stand in the tool's own text.
                result = self.with_id(result)
            return announced(
                result,
                where=where,
                continuation_id=kept.turn.continuation_id,
                meta=self._meta(),
                in_structured=plan.id_in_structured,
            )
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self._runtime.say("result.not_announced", error)
            return result

    def _asked(self, result: JsonObject) -> JsonObject:
        """`result`, a question, with the turn in its request state; unless a seam further in has put it there."""
        if self.kept.envelope is None or result.get("requestState") != self.kept.own_state:
            return result
        return {**result, "requestState": self.kept.envelope}

    def _meta(self) -> JsonObject:
        kept = self.kept
        nothing_before = kept.history is NOTHING_BEFORE
        meta: JsonObject = {
            META_CONTINUATION_ID: kept.turn.continuation_id,
            META_TURN_ID: kept.turn.id,
            META_PERSISTED: kept.is_kept,
            META_HISTORY: {"state": "new", "turns": 0, "omitted": 0} if nothing_before else self._history_given(),
        }
        if kept.waits:
            meta[META_DEFERRED] = True
        if kept.touched_files is not None:
            meta |= kept.touched_files.meta(kept.kept_files)
        if kept.fault is not None:
            meta[META_FAULT] = fault_code(kept.fault)
            if isinstance(kept.fault, StoreMisconfigured | ConversationFull | RateLimited):
                meta[META_REMEDY] = kept.fault.remedy  # words of ours: no address and no key is ever in them
            if isinstance(kept.fault, RateLimited):
                meta[META_RETRY_AFTER] = round(kept.fault.seconds, 3)
        return meta

    def _history_given(self) -> JsonObject:
        history = self.kept.history
        given: JsonObject = {"state": history.state.value, "turns": len(history), "omitted": history.omitted}
        return {**given, "skipped": self._skipped} if self._skipped else given


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception's own code may be what is broken
        return "(it has no message that could be read)"


def fault_code(fault: Exception) -> str:
    """What a client may know of a fault: its kind. Paths and addresses are for the operator's log."""
    return fault.code if isinstance(fault, PerdureError) else "internal_error"
