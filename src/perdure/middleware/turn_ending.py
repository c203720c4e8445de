"""What happens to the turn of a call after its tool's body: its files are kept, and its end made durable."""

from perdure.middleware.announcement import answer_of
from perdure.middleware.call_files import CallFiles, may_name_files
from perdure.middleware.call_legs import CallLegs
from perdure.middleware.call_steps import CallSteps
from perdure.middleware.call_turn import CallTurn
from perdure.middleware.persistence.turn import JsonObject
from perdure.settings import Acknowledge

__all__ = ["end_turn"]


async def end_turn(call: CallTurn, steps: CallSteps) -> None:
    try:
        if not call.is_to_be_recorded:
            return
        if call.asks:
            await _left_to_client(call, steps)
            return
        result = call.result
        if result is not None and call.policy.files and may_name_files(result):
            await _files_kept(call, steps, result)
        if call.turn.place is None:
            call.turn = call.turn.changed(deferred=True)
        # A turn whose intent waits must not overtake those before it, and goes the same way.
        spooled = call.intent_waits or (call.policy.acknowledge is Acknowledge.SPOOL and call.engine.spool is not None)
        if spooled:
            await _spooled(call, steps)
        if not call.waits:  # Out of its order is better than not at all.
            turn = call.turn
            try:
                finished = await steps.finish(turn, call.plan.redactor)
                if finished.continuation_id != turn.continuation_id or finished.place != turn.place:
                    call.turn = turn.placed(finished.continuation_id, finished.place)
                call.finished = finished
            except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
                call.was_not_taken(error)
            if not spooled and call.finished is None and call.may_be_deferred:
                await _spooled(call, steps)
        if call.touched_files is not None and call.finished is not None and call.touched_files.are_to_be_signed:
            await _files_signed(call, steps, call.touched_files)
    finally:
        call.held = None  # Its tool does not run any more, and nobody else has this.


async def _spooled(call: CallTurn, steps: CallSteps) -> None:
    try:
        await steps.disk(call.engine.defer, call.turn, call.plan.redactor)
        call.waits = True
    except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
        call.was_not_deferred(error)


# ── a question to the client ─────────────────────────────────────────────────────────────────────────────────────


async def _left_to_client(call: CallTurn, steps: CallSteps) -> None:
    try:
        call.envelope = await steps.disk(CallLegs(call).wrapped)
    except Exception as error:  # noqa: BLE001 - the next leg will be a turn of its own
        call.runtime.say("request_state.not_carried", error)
        return
    if call.turn.place is None:
        return
    try:
        await steps.store(call.engine.leave_to_client, call.turn)
    except Exception as error:  # noqa: BLE001 - it is shown as interrupted while the client thinks; the next leg goes on
        call.runtime.say("turn.lease_not_renewed", error)


# ── the files that its result names ──────────────────────────────────────────────────────────────────────────────


async def _files_kept(call: CallTurn, steps: CallSteps, result: JsonObject) -> None:
    """Those that can be, in the file store or in the spool."""
    files = call.files
    try:
        await steps.files(files.keep, result)
    except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
        _were_not_all_kept(call, error)
    if files.are_on_their_way and call.engine.spool is not None:
        try:
            await steps.disk(files.rescue)
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            _were_not_all_kept(call, error)
    settled = files.settle()
    if files.away is not None:
        call.fault = files.away
        call.runtime.say("file.deferred", files.away)
    answer = answer_of(files.rewritten(result, call.plan.shape.output_schema))
    call.turn = call.turn.changed(answer=answer, files=settled)
    call.runtime.say_left_alone(call.request.tool, files.left_for_their_place())


def _were_not_all_kept(call: CallTurn, error: Exception) -> None:
    call.fault = error
    call.runtime.say("file.not_kept", error)


async def _files_signed(call: CallTurn, steps: CallSteps, files: CallFiles) -> None:
    try:
        await steps.files(files.sign)
    except Exception as error:  # noqa: BLE001 - the client gets storage URIs instead
        call.fault = error
        call.runtime.say("file.not_signed", error)
