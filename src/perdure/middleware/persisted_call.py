"""One tool call on its way through perdure: begun, given its history, finished, announced.

Every seam drives this same object. It never raises for a fault of the store: the call goes on without memory, and the
fault is logged and named in the result.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from perdure.errors import PerdureError, StoreTimeout, StoreUnavailable
from perdure.middleware.announcement import announced, answer_of, is_error, is_final
from perdure.middleware.call_reader import META_CONTINUATION_ID, Reading, ToolRequest, prompt_fits, read_call
from perdure.middleware.persistence.history import Conversation, History, HistoryState, in_conversation
from perdure.middleware.persistence.threads import LaneFull
from perdure.middleware.persistence.turn import Answer, BegunTurn, FinishedTurn, JsonObject, Outcome, Turn, Window
from perdure.middleware.persistence.wiring import Runtime, redactor_for
from perdure.middleware.tool_schema import CONTINUATION_ID
from perdure.settings import HistoryMode, Policy

__all__ = ["ActiveCall", "PersistedCall", "active_call", "fault_code", "within"]

T = TypeVar("T")


class PersistedCall:
    def __init__(self, runtime: Runtime, request: ToolRequest, policy: Policy) -> None:
        self.request = request
        self.policy = policy
        self.history = History()
        self.fault: Exception | None = None
        self._runtime = runtime
        self._engine = runtime.engine
        self._reading: Reading = read_call(request, policy, runtime.settings, self._engine.clock.now())
        self._turn: Turn = self._reading.turn
        self._redactor = redactor_for(policy.redact, policy.redact_patterns)
        self._budget = runtime.settings.operation_timeout
        self._finished: FinishedTurn | None = None
        self._skipped: str | None = None

    # ── before the body ──────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        self._attempt(self._call_store, self._begin, self._was_begun)

    async def begin_async(self) -> None:
        await self._attempt_async(self._begin, self._was_begun)

    def _begin(self) -> BegunTurn:
        window = Window(self.policy.max_turns, self.policy.max_tokens)
        return self._engine.begin(self._turn, window, self._redactor)

    def _was_begun(self, begun: BegunTurn) -> None:
        self._turn = replace(self._turn, continuation_id=begun.continuation_id, place=begun.place)
        state = HistoryState.LOADED if begun.history else HistoryState.NEW
        if not begun.history and begun.omitted:
            state = HistoryState.LOADED
        self.history = History(begun.history, state=state, omitted=begun.omitted)

    @property
    def conversation(self) -> Conversation:
        return Conversation(self._turn.continuation_id, self._turn.id, self.history)

    def prompt_with_history(self, prompt: str) -> str:
        """`prompt` as the tool's body gets it; the record keeps it as it was."""
        argument = self._reading.prompt_argument
        if argument is None or self._reading.history_mode is not HistoryMode.PROMPT:
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
        """The wire arguments as the tool gets them: without what it does not know, with its history."""
        arguments = dict(self.request.arguments)
        if not self.request.declares_id:
            arguments.pop(CONTINUATION_ID, None)
        if (argument := self.prompt_argument) is not None:
            arguments[argument] = self.prompt_with_history(arguments[argument])
        return arguments

    # ── after the body ───────────────────────────────────────────────────────────────────────────────────────

    def end_with_result(self, result: JsonObject) -> None:
        """The body gave a result, here in its wire form."""
        if not is_final(result):
            # A question to the client, or a task: the answer comes with a later call, which is a turn of its own.
            self._end(Outcome.CANCELLED, Answer(error={"type": "not_final", "message": str(result.get("resultType"))}))
        else:
            self._end(Outcome.FAILED if is_error(result) else Outcome.ANSWERED, answer_of(result))

    def end_with_error(self, error: BaseException, *, cancelled: bool) -> None:
        if cancelled:
            self._end(Outcome.CANCELLED, Answer())
        else:
            self._end(Outcome.FAILED, Answer(error={"type": type(error).__name__, "message": str(error)}))

    def end_cancelled(self, result: JsonObject) -> None:
        """The body gave a result, but the client had given up on it."""
        self._end(Outcome.CANCELLED, answer_of(result))

    def _end(self, outcome: Outcome, answer: Answer) -> None:
        self._turn = self._turn.ended(outcome, self._engine.clock.now(), answer)

    def finish(self) -> None:
        self._attempt(self._call_store, self._finish, self._was_finished)

    async def finish_async(self) -> None:
        await self._attempt_async(self._finish, self._was_finished)

    def _finish(self) -> FinishedTurn:
        if self._turn.place is None:
            self._turn = replace(self._turn, deferred=True)
        return self._engine.finish(self._turn, self._redactor)

    def _was_finished(self, finished: FinishedTurn) -> None:
        self._finished = finished
        self._turn = replace(self._turn, continuation_id=finished.continuation_id, place=finished.place)

    def announce(self, result: JsonObject) -> JsonObject:
        """`result` as the client gets it."""
        if not is_final(result):
            return result
        return announced(
            result,
            where=self.policy.announce,
            continuation_id=self._turn.continuation_id,
            meta=self._meta(),
            output_schema=self.request.output_schema,
            schema_widened=self.request.schema_widened,
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
        if self.fault is not None:
            meta["perdure/fault"] = fault_code(self.fault)
        return meta

    # ── to the store and back ────────────────────────────────────────────────────────────────────────────────

    def _attempt(self, run: Callable[[Callable[[], T]], T], work: Callable[[], T], then: Callable[[T], None]) -> None:
        try:
            then(run(work))
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self._met(error)

    async def _attempt_async(self, work: Callable[[], T], then: Callable[[T], None]) -> None:
        try:
            then(await self._call_store_async(work))
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self._met(error)

    def _call_store(self, work: Callable[[], T]) -> T:
        if not self._engine.store.blocking:
            return work()
        with self._on_the_budget() as budget:
            return self._runtime.lane.call(work, budget=budget)

    async def _call_store_async(self, work: Callable[[], T]) -> T:
        if not self._engine.store.blocking:
            return work()
        with self._on_the_budget() as budget:
            return await self._runtime.lane.call_async(work, budget=budget)

    @contextmanager
    def _on_the_budget(self) -> Iterator[float]:
        """What is left of the seconds that this call may wait for the store.

        Raises:
            StoreTimeout: Nothing is left, or it was used up.
            StoreUnavailable: So many calls wait for the store that this one is not let in.
        """
        started = time.monotonic()
        try:
            if self._budget <= 0:
                raise TimeoutError
            yield self._budget
        except TimeoutError as error:
            raise StoreTimeout(
                f"The store did not answer within {self._runtime.settings.operation_timeout:g} s.",
                remedy="look at the store; PERDURE_OPERATION_TIMEOUT sets how long a call waits for it.",
            ) from error
        except LaneFull as error:
            raise StoreUnavailable(
                "All threads wait for a store that does not answer.", remedy="look at the store."
            ) from error
        finally:
            self._budget -= time.monotonic() - started

    def _met(self, error: Exception) -> None:
        self.fault = error
        self._runtime.say("turn.not_kept", error)
        if self._turn.place is None and self._turn.outcome is Outcome.RUNNING and self._reading.continues:
            self.history = History(state=HistoryState.UNAVAILABLE)


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
