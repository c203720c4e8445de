"""The turn of one call, as far as it has come: what was read, what is kept of it and where, and what went wrong.

`turn_beginning` and `turn_ending` take it further. A fault of the store or of the spool is no exception here: the call
goes on without memory, and the fault is logged and kept, to be named in the result.
"""

from perdure.errors import PerdureError, StoreUnavailable
from perdure.middleware.call_files import CallFiles, Report, Reporter
from perdure.middleware.call_reader import Reading, ToolRequest, read_call
from perdure.middleware.persistence.history import NOTHING_BEFORE, History
from perdure.middleware.persistence.running_turns import HeldTurn
from perdure.middleware.persistence.runtime import Runtime
from perdure.middleware.persistence.turn import Answer, FinishedTurn, JsonObject, Outcome, StoredFile, Turn
from perdure.middleware.tool_plan import ToolPlan

__all__ = ["CallTurn"]


class CallTurn:
    history: History = NOTHING_BEFORE
    result: JsonObject | None = None
    """In which files may be named that are to be kept."""
    asks = False
    """The tool wants something of the client first: the call, and its turn, go on with the next leg."""
    own_state: str | None = None
    """The tool's, with its question."""
    envelope: str | None = None
    """In which the turn travels to the next leg of its call, if there is one."""
    is_to_be_recorded = True
    held: HeldTurn | None = None
    """While the tool runs: its turn's lease is renewed."""
    intent_waits = False
    """The turn's intent is in the spool, to be sent before its end."""
    waits = False
    """The whole turn is in the spool, to be sent later."""
    finished: FinishedTurn | None = None
    fault: Exception | None = None
    """What the result names, of all that went wrong."""
    turn_fault: Exception | None = None
    """Why the store has not taken the turn, last."""
    refusal: PerdureError | None = None
    """The body must not run. An argument names a file that this caller does not have, or the idempotency key was used
    for another call."""
    replayed: JsonObject | None = None
    """The result that is kept of this same call. The body must not run."""
    reporter: Reporter | None = None
    """Knows where to tell how far the work on files is."""
    touched_files: CallFiles | None = None
    """None: neither its arguments nor its result can have named any."""

    # What stands above is the same in nearly every call: only what is not is set in one.

    def __init__(self, runtime: Runtime, request: ToolRequest, plan: ToolPlan) -> None:
        policy = plan.policy
        self.runtime = runtime
        self.engine = runtime.engine
        self.request = request
        self.plan = plan
        self.policy = policy
        self.reading: Reading = read_call(request, plan.shape, policy, runtime.settings, self.engine.clock.now())
        self.turn: Turn = self.reading.turn
        self.arguments = self.turn.arguments if policy.strip_id else request.arguments
        """Of the tool: local paths in place of storage URIs once the turn has begun."""
        for error in plan.roots.refused:
            runtime.say("file.root_refused", error)

    @property
    def files(self) -> CallFiles:
        """To be asked for on the thread that serves the call: there its reporter is asked."""
        if self.touched_files is None:
            self.touched_files = CallFiles(
                self.runtime.keeper,
                self.turn.principal,
                self.policy,
                self.plan.roots,
                self._report(),
                max_total_bytes=self.runtime.settings.max_total_bytes,
            )
        return self.touched_files

    def _report(self) -> Report | None:
        try:
            return None if self.reporter is None else self.reporter()
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            self.runtime.say("progress.not_reported", error)
            return None

    @property
    def is_kept(self) -> bool:
        """The turn is acknowledged: by the store, or by the spool."""
        return self.finished is not None or self.waits

    @property
    def kept_files(self) -> tuple[StoredFile, ...]:
        """Those that are acknowledged with the turn."""
        if self.finished is not None:
            return self.finished.files
        return self.turn.files if self.waits else ()

    @property
    def may_be_deferred(self) -> bool:
        """The store has not taken the turn, has not refused it for good either, and there is a spool that may."""
        fault = self.turn_fault
        for_good = isinstance(fault, PerdureError) and not isinstance(fault, StoreUnavailable)
        return fault is not None and not for_good and self.engine.spool is not None

    def ask(self, own_state: str | None) -> None:
        """The body has a question for the client, with this request state."""
        self.asks, self.own_state = True, own_state

    def end(self, outcome: Outcome, answer: Answer, result: JsonObject | None = None) -> None:
        """The body has ended; with `result` if files that it names are to be kept."""
        self.turn = self.turn.ended(outcome, self.engine.clock.now(), answer)
        self.result = result

    def was_not_taken(self, error: Exception) -> None:
        self.fault = self.turn_fault = error
        self.runtime.say("turn.deferred" if self.may_be_deferred else "turn.not_kept", error)

    def was_not_deferred(self, error: Exception) -> None:
        """The spool is full or broken too: what is wrong with the store is known already."""
        self.fault = error
        self.runtime.say("turn.not_kept", error)
