"""What happens to the turn of a call after its tool's body: its files are kept, and its end made durable."""

from collections.abc import Iterator
from typing import Any

from perdure.middleware.announcement import answer_of
from perdure.middleware.call_files import may_name_files
from perdure.middleware.call_legs import CallLegs
from perdure.middleware.call_steps import Step, Waits
from perdure.middleware.call_turn import CallTurn
from perdure.middleware.persistence.turn import FinishedTurn, JsonObject
from perdure.settings import Acknowledge

__all__ = ["TurnEnding"]


class TurnEnding:
    def __init__(self, call: CallTurn) -> None:
        self._call = call
        self._runtime = call.runtime
        self._engine = call.engine

    def steps(self) -> "Iterator[Step[Any]]":
        call = self._call
        if not call.is_to_be_recorded:
            return
        if call.asks:
            yield Step(work=self._enveloped, then=self._leaves_with, failed=self._not_carried, waits=Waits.DISK)
            if call.envelope is not None and call.turn.place is not None:
                yield Step(
                    work=lambda: self._engine.leave_to_client(call.turn),
                    then=lambda _: None,
                    failed=self._not_left_to_client,
                )
            return
        result = call.result
        if result is not None and call.policy.files and may_name_files(result):
            yield Step(
                work=lambda: call.files.keep(result),
                then=lambda _: None,
                failed=self._not_all_kept,
                waits=Waits.FILES,
            )
            if call.files.are_on_their_way and self._engine.spool is not None:
                yield Step(work=call.files.rescue, then=lambda _: None, failed=self._not_all_kept, waits=Waits.DISK)
            self._were_kept(result)
        if call.turn.place is None:
            call.turn = call.turn.changed(deferred=True)
        to_store: Step[Any] = Step(
            work=lambda: self._engine.finish(call.turn, call.plan.redactor),
            then=self._was_finished,
            failed=call.was_not_taken,
        )
        # A turn whose intent waits must not overtake those before it, and goes the same way.
        by_spool = call.intent_waits or (
            call.policy.acknowledge is Acknowledge.SPOOL and self._engine.spool is not None
        )
        if not by_spool:
            yield to_store
        if call.finished is None and (by_spool or call.may_be_deferred):
            yield Step(
                work=lambda: self._engine.defer(call.turn, call.plan.redactor),
                then=lambda _: self._was_spooled(),
                failed=call.was_not_deferred,
                waits=Waits.DISK,
            )
        if call.finished is None and not call.waits and by_spool:
            yield to_store  # Out of its order is better than not at all.
        if call.finished is not None and call.touched_files is not None and call.touched_files.are_to_be_signed:
            yield Step(work=call.touched_files.sign, then=lambda _: None, failed=self._not_signed, waits=Waits.FILES)

    def _enveloped(self) -> str:
        return CallLegs(self._call).wrapped()

    def _leaves_with(self, envelope: str) -> None:
        self._call.envelope = envelope

    def _not_carried(self, error: Exception) -> None:
        """The next leg will be a turn of its own."""
        self._runtime.say("request_state.not_carried", error)

    def _not_left_to_client(self, error: Exception) -> None:
        """It is shown as interrupted while the client thinks; the next leg goes on with it all the same."""
        self._runtime.say("turn.lease_not_renewed", error)

    def _was_finished(self, finished: FinishedTurn) -> None:
        call = self._call
        if (finished.continuation_id, finished.place) != (call.turn.continuation_id, call.turn.place):
            call.turn = call.turn.changed(continuation_id=finished.continuation_id, place=finished.place)
        call.finished = finished

    def _was_spooled(self) -> None:
        self._call.waits = True

    # The files that its result names.

    def _not_all_kept(self, error: Exception) -> None:
        self._call.fault = error
        self._runtime.say("file.not_kept", error)

    def _were_kept(self, result: JsonObject) -> None:
        """Those that could be, in the file store or in the spool."""
        call = self._call
        files = call.files.settle()
        if call.files.away is not None:
            call.fault = call.files.away
            self._runtime.say("file.deferred", call.files.away)
        call.turn = call.turn.changed(
            answer=answer_of(call.files.rewritten(result, call.plan.shape.output_schema)), files=files
        )
        self._runtime.say_left_alone(call.request.tool, call.files.left_for_their_place())

    def _not_signed(self, error: Exception) -> None:
        """The client gets storage URIs instead."""
        self._call.fault = error
        self._runtime.say("file.not_signed", error)
