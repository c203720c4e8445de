"""From one leg of a call to the next: its turn travels through the client, around the request state of the tool."""

from perdure.middleware.call_turn import CallTurn
from perdure.middleware.request_state import SEALED_BY_SDK, Binding, OpenTurn, opened, wrapped

__all__ = ["CallLegs"]


class CallLegs:
    """Both ways block when the key of this machine is needed for the first time."""

    def __init__(self, call: CallTurn) -> None:
        self._call = call

    def opened(self) -> OpenTurn:
        """The turn that this leg goes on with.

        Raises:
            RequestStateRefused: Its envelope was not made here for this call, was altered, or is too old.
        """
        call = self._call
        return opened(call.request.request_state or "", self._binding, self._key, call.engine.clock.now())

    def wrapped(self) -> str:
        """The request state with which the turn goes on, around the tool's own."""
        call, turn = self._call, self._call.turn
        open_turn = OpenTurn(
            id=turn.id,
            continuation_id=turn.continuation_id,
            minted=turn.minted,
            continues=call.reading.continues,
            started_at=turn.started_at,
            place=turn.place,
        )
        return wrapped(call.own_state, open_turn, self._binding, self._key, call.engine.clock.now())

    @property
    def _binding(self) -> Binding:
        request = self._call.request
        return Binding(principal=self._call.turn.principal, tool=request.tool, arguments=request.arguments)

    @property
    def _key(self) -> bytes:
        return SEALED_BY_SDK if self._call.request.request_state_is_sealed else self._call.runtime.signing_key
