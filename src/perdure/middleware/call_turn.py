"""The turn of one call, as far as it has come: what was read, what is kept of it and where, and what went wrong.

`turn_beginning` and `turn_ending` take it further. A fault of the store or of the spool is no exception here: the call
goes on without memory, and the fault is logged and kept, to be named in the result.
"""

from perdure.errors import PerdureError, StoreUnavailable
from perdure.middleware.call_files import CallFiles
from perdure.middleware.call_reader import Reading, ToolRequest, read_call
from perdure.middleware.persistence.history import NOTHING_BEFORE, History
from perdure.middleware.persistence.running_turns import HeldTurn
from perdure.middleware.persistence.turn import Answer, FinishedTurn, JsonObject, Outcome, Turn
from perdure.middleware.persistence.wiring import Runtime, redactor_for, roots_for
from perdure.settings import Policy

__all__ = ["CallTurn"]


class CallTurn:
    def __init__(self, runtime: Runtime, request: ToolRequest, policy: Policy) -> None:
        self.runtime = runtime
        self.engine = runtime.engine
        self.request = request
        self.policy = policy
        self.redactor = redactor_for(policy.redact, policy.redact_patterns)
        self.reading: Reading = read_call(request, policy, runtime.settings, self.engine.clock.now())
        self.turn: Turn = self.reading.turn
        self.arguments = self.turn.arguments if policy.strip_id else request.arguments
        """Of the tool: local paths in place of storage URIs once the turn has begun."""
        self.history: History = NOTHING_BEFORE
        self.result: JsonObject | None = None
        """In which files may be named that are to be kept."""
        self.asks = False
        """The tool wants something of the client first: the call, and its turn, go on with the next leg."""
        self.own_state: str | None = None
        """The tool's, with its question."""
        self.envelope: str | None = None
        """In which the turn travels to the next leg of its call, if there is one."""
        self.is_to_be_recorded = True
        self.held: HeldTurn | None = None
        """While the tool runs: its turn's lease is renewed."""
        self.intent_waits = False
        """The turn's intent is in the spool, to be sent before its end."""
        self.waits = False
        """The whole turn is in the spool, to be sent later."""
        self.finished: FinishedTurn | None = None
        self.fault: Exception | None = None
        """What the result names, of all that went wrong."""
        self.turn_fault: Exception | None = None
        """Why the store has not taken the turn, last."""
        self.refusal: PerdureError | None = None
        """The body must not run. An argument names a file that this caller does not have, or the idempotency key was
        used for another call."""
        self.replayed: JsonObject | None = None
        """The result that is kept of this same call. The body must not run."""
        roots = roots_for(policy.file_roots, runtime.own_folder)
        for error in roots.refused:
            runtime.say("file.root_refused", error)
        self.files = CallFiles(
            runtime.keeper,
            self.turn.principal,
            policy,
            roots,
            max_total_bytes=runtime.settings.max_total_bytes,
        )

    @property
    def is_kept(self) -> bool:
        """The turn is acknowledged: by the store, or by the spool."""
        return self.finished is not None or self.waits

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

    def let_go(self) -> None:
        """The tool does not run any more."""
        if self.held is not None:
            self.held.let_go()

    def was_not_taken(self, error: Exception) -> None:
        self.fault = self.turn_fault = error
        self.runtime.say("turn.deferred" if self.may_be_deferred else "turn.not_kept", error)

    def was_not_deferred(self, error: Exception) -> None:
        """The spool is full or broken too: what is wrong with the store is known already."""
        self.fault = error
        self.runtime.say("turn.not_kept", error)
