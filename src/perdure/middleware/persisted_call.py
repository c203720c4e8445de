"""One tool call on its way through perdure: begun, given its history, finished, announced.

Every seam drives this same object. It never raises for a fault of the store: the call goes on without memory, and the
fault is logged and named in the result.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from perdure.errors import FileMissing, PerdureError, StoreMisconfigured, StoreTimeout, StoreUnavailable
from perdure.middleware.announcement import announced, answer_of, is_error, is_final
from perdure.middleware.call_files import CallFiles, Report
from perdure.middleware.call_reader import META_CONTINUATION_ID, Reading, ToolRequest, prompt_fits, read_call
from perdure.middleware.persistence.history import Conversation, History, HistoryState, in_conversation
from perdure.middleware.persistence.threads import Lane, LaneFull
from perdure.middleware.persistence.turn import (
    Answer,
    BegunTurn,
    FinishedTurn,
    JsonObject,
    Outcome,
    Turn,
    Window,
)
from perdure.middleware.persistence.wiring import Runtime, redactor_for, roots_for
from perdure.middleware.result_ids import ResultIds
from perdure.middleware.tool_schema import CONTINUATION_ID, satisfies, takes_continuation_id
from perdure.settings import Announce, HistoryMode, Policy

__all__ = ["ActiveCall", "PersistedCall", "active_call", "fault_code", "within"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step(Generic[T]):
    """Work that may block, and what to do with what came of it."""

    work: Callable[[], T]
    then: Callable[[T], None]
    failed: Callable[[Exception], None]
    on_files: bool = False
    """In the lane for files, with the time that files have."""


class PersistedCall:
    def __init__(self, runtime: Runtime, request: ToolRequest, policy: Policy) -> None:
        self.request = request
        self.policy = policy
        self.history = History()
        self.fault: Exception | None = None
        self.refusal: PerdureError | None = None
        """Set by `begin`: an argument names a file that this caller does not have. The body must not run."""
        self._runtime = runtime
        self._engine = runtime.engine
        self._reading: Reading = read_call(request, policy, runtime.settings, self._engine.clock.now())
        self._turn: Turn = self._reading.turn
        self._redactor = redactor_for(policy.redact, policy.redact_patterns)
        self._budget = runtime.settings.operation_timeout
        self._arguments = self._turn.arguments if policy.strip_id else request.arguments
        self._own_ids = ResultIds.at(policy.id_path) if policy.id_path else None
        self._result: JsonObject | None = None
        self._finished: FinishedTurn | None = None
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
        self._take(self._begin_steps())

    async def begin_async(self) -> None:
        await self._take_async(self._begin_steps())

    def _begin_steps(self) -> "Iterator[_Step[Any]]":
        window = Window(self.policy.max_turns, self.policy.max_tokens)
        yield _Step(
            work=lambda: self._engine.begin(self._turn, window, self._redactor),
            then=self._was_begun,
            failed=self._met,
        )
        if self._files.are_named_in(self._turn.arguments):
            yield _Step(
                work=lambda: self._files.brought_back(self._arguments, self.request.input_schema),
                then=self._was_brought_back,
                failed=self._refuse,
                on_files=True,
            )

    def _was_begun(self, begun: BegunTurn) -> None:
        if not all(isinstance(turn, Turn) for turn in begun.history):
            raise StoreUnavailable("The store gave a history that is none.", remedy="look at the store.")
        state = HistoryState.LOADED if begun.history or begun.omitted else HistoryState.NEW
        history = History(begun.history, state=state, omitted=begun.omitted)
        self._turn = replace(self._turn, continuation_id=begun.continuation_id, place=begun.place)
        self.history = history

    def _was_brought_back(self, arguments: JsonObject) -> None:
        self._arguments = arguments

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, FileMissing):
            self.refusal = error
            return
        # Where it would have been is for the operator to know.
        self._runtime.say("file.not_brought_back", error)
        uris = ", ".join(self._files.uris_in(self._turn.arguments))
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
        if not is_final(result):
            # A question to the client, or a task: the answer comes with a later call, which is a turn of its own.
            self._end(Outcome.CANCELLED, Answer(error={"type": "not_final", "message": str(result.get("resultType"))}))
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
        self._take(self._finish_steps())

    async def finish_async(self) -> None:
        await self._take_async(self._finish_steps())

    def _finish_steps(self) -> "Iterator[_Step[Any]]":
        result = self._result
        if result is not None and self._files.might_be_named_in(result):
            yield _Step(
                work=lambda: self._files.keep(result),
                then=lambda _: self._were_kept(result),
                failed=lambda error: self._were_kept(result, error),
                on_files=True,
            )
        if self._turn.place is None:
            self._turn = replace(self._turn, deferred=True)
        yield _Step(
            work=lambda: self._engine.finish(self._turn, self._redactor), then=self._was_finished, failed=self._met
        )
        if self._finished is not None and self._files.are_to_be_signed:
            yield _Step(work=self._files.sign, then=lambda _: None, failed=self._not_signed, on_files=True)

    def _not_signed(self, error: Exception) -> None:
        """The client gets storage URIs instead."""
        self.fault = error
        self._runtime.say("file.not_signed", error)

    def _were_kept(self, result: JsonObject, error: Exception | None = None) -> None:
        """Some of them, if there was an `error`."""
        if error is not None:
            self._met(error)
        files = self._files.settle()
        self._turn = replace(
            self._turn, answer=answer_of(self._files.rewritten(result, self.request.output_schema)), files=files
        )
        self._runtime.say_left_alone(self.request.tool, self._files.left_for_their_place())

    def _was_finished(self, finished: FinishedTurn) -> None:
        self._turn = replace(self._turn, continuation_id=finished.continuation_id, place=finished.place)
        self._finished = finished

    def announce(self, result: JsonObject) -> JsonObject:
        """`result` as the client gets it."""
        try:
            return self._announced(result) if is_final(result) else result
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self._runtime.say("result.not_announced", error)
            return result

    def _announced(self, result: JsonObject) -> JsonObject:
        if self._finished is not None:
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
            "perdure/persisted": self._finished is not None,
            "perdure/history": history,
        }
        meta |= self._files.meta(self._finished.files if self._finished is not None else ())
        if self.fault is not None:
            meta["perdure/fault"] = fault_code(self.fault)
            if isinstance(self.fault, StoreMisconfigured):
                meta["perdure/remedy"] = self.fault.remedy  # words of ours: no address and no key is ever in them
        return meta

    # ── to the stores and back ───────────────────────────────────────────────────────────────────────────────

    def _take(self, steps: "Iterator[_Step[Any]]") -> None:
        for step in steps:
            try:
                if step.on_files or self._engine.store.blocking:
                    with self._in_time(step) as (lane, budget):
                        result = lane.call(step.work, budget=budget)
                else:
                    result = step.work()
                step.then(result)
            except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
                step.failed(error)

    async def _take_async(self, steps: "Iterator[_Step[Any]]") -> None:
        for step in steps:
            try:
                if step.on_files or self._engine.store.blocking:
                    with self._in_time(step) as (lane, budget):
                        result = await lane.call_async(step.work, budget=budget)
                else:
                    result = step.work()
                step.then(result)
            except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
                step.failed(error)

    @contextmanager
    def _in_time(self, step: "_Step[Any]") -> Iterator[tuple[Lane, float]]:
        """The lane for `step`, and the seconds it has: files their own, the store what is left of the call's.

        Raises:
            StoreTimeout: Nothing is left, or it was used up.
            StoreUnavailable: So many calls wait already that this one is not let in.
        """
        started = time.monotonic()
        lane, budget, setting = self._runtime.lane, self._budget, "operation_timeout"
        if step.on_files:
            lane, budget, setting = self._runtime.file_lane, self.policy.file_timeout + 1, "file_timeout"
        try:
            if budget <= 0:
                raise TimeoutError
            yield lane, budget
        except TimeoutError as error:
            raise StoreTimeout(
                "The store did not answer within the time it has in one call.",
                remedy=f"look at the store; the setting {setting} is that time, in seconds.",
            ) from error
        except LaneFull as error:
            raise StoreUnavailable(
                "All threads wait for a store that does not answer.", remedy="look at the store."
            ) from error
        finally:
            if not step.on_files:
                self._budget -= time.monotonic() - started

    def _met(self, error: Exception) -> None:
        self.fault = error
        self._runtime.say("turn.not_kept", error)
        if self._turn.place is None and self._turn.outcome is Outcome.RUNNING and self._reading.continues:
            self.history = History(state=HistoryState.UNAVAILABLE)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception's own code may be what is broken
        return "(it has no message that could be read)"


def fault_code(fault: Exception) -> str:
    """What a client may know of a fault: its kind. Paths and addresses are for the operator's log."""
    return fault.code if isinstance(fault, PerdureError) else "internal_error"


@dataclass(slots=True)
class ActiveCall:
    """The `tools/call` that is being served in this context, as the outermost seam sees it."""

    key: object
    """Something that is one and the same object during one request."""
    tool: str
    request: Any = None
    """The SDK's own request context, for a handler that is not given one."""
    call: PersistedCall | None = None
    """Whoever persists the call leaves it here."""


active_call: ContextVar[ActiveCall | None] = ContextVar("perdure_active_call", default=None)


@contextmanager
def within(active: ActiveCall) -> Iterator[None]:
    """Everything inside is part of this call; `current_conversation()` tells its conversation if it is persisted."""
    token = active_call.set(active)
    try:
        if active.call is None:
            yield
        else:
            with in_conversation(active.call.conversation):
                yield
    finally:
        active_call.reset(token)
