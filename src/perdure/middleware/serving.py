"""A call that is persisted: what its handler is given, what is recorded of its value, and what the SDK gets for it."""

import asyncio
from typing import Any, TypeAlias

from perdure.errors import PerdureError
from perdure.middleware.active_call import ActiveCall
from perdure.middleware.announcement import is_error
from perdure.middleware.handler_arguments import Arguments, HandlerArguments
from perdure.middleware.lowlevel_values import announced_value, wire_of
from perdure.middleware.persisted_call import PersistedCall
from perdure.middleware.persistence.history import NOTHING_BEFORE
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.sdk import RegisteredTool, sdk

__all__ = ["HighLevel", "LowLevel", "Serving", "is_cancellation"]


_NEITHER_RESULT_NOR_QUESTION = frozenset({str, dict, list, tuple, int, float, bool, type(None)})
"""Types of most values that tools give."""


class HighLevel:
    """Serves a tool of an `MCPServer`: its value becomes a result as the SDK itself would make it."""

    _wire: JsonObject | None = None
    _gave_result = False
    """The handler itself, and not only a value that becomes one."""

    def __init__(
        self,
        call: PersistedCall,
        active: ActiveCall,
        tool: RegisteredTool,
        handler: HandlerArguments,
        hooked: bool,
        outermost: bool,
    ) -> None:
        """`hooked`: a server hook announces around us. `outermost`: no other decorator stands before the SDK, which
        would expect the handler's own value."""
        self.call = call
        self.active = active
        active.call = call
        self._handler = handler
        self._tool = tool
        self._hooked = hooked
        self._outermost = outermost

    def refused(self, refusal: PerdureError) -> Exception:
        """What is raised in place of the body, for instance where an argument names a file that the caller has not."""
        return self._tool.error(refusal)

    def replay(self, wire: JsonObject) -> object:
        """What the SDK is given in place of a value of the body: the result that is kept of this call."""
        return self._tool.answering(wire if self._hooked else self.call.announce(wire))

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        changed = self.call.kept.arguments is not self.call.request.arguments  # local paths for storage URIs, no id
        if changed:
            kwargs = {**kwargs, **self._tool.validated(self.call.arguments_for_tool())}
        history = self.call.history_for_parameter if self._handler.takes_history else NOTHING_BEFORE
        args, kwargs = self._handler.declared(args, kwargs, history)
        if changed or self.call.kept.history is NOTHING_BEFORE:
            return args, kwargs  # With the transcript in its prompt already, or without any.
        argument = self._handler.parameter_of(self.call.prompt_argument)
        if argument is not None and isinstance(prompt := kwargs.get(argument), str):
            kwargs = {**kwargs, argument: self.call.prompt_with_history(prompt)}
        return args, kwargs

    def leaves_result_to_sdk(self, value: object) -> bool:
        """Whether the SDK may make the result of `value`, once, and gives it here then: the call ends with that."""
        # A question must carry its turn before whatever may seal it; and a decorator above us would see the value.
        if type(value) not in _NEITHER_RESULT_NOR_QUESTION:
            self._gave_result = sdk.is_result(value)
            if sdk.is_question(value):
                return False
        return self._outermost and self._tool.passes_result_to(self, self.active.request)

    async def ended(self, wire: JsonObject) -> JsonObject:
        self.call.end_with_result(wire)
        await self.call.finish_async()
        if is_error(wire) and not self._gave_result:
            return wire  # What was raised after the body comes to the client as it would without us.
        return wire if self._hooked else self.call.announce(wire)

    async def failed(self, error: BaseException) -> None:
        self.call.end_with_error(error, cancelled=is_cancellation(error))
        await self.call.finish_async()

    def end(self, value: object, *, cancelled: bool = False) -> None:
        try:
            self._wire = self._tool.result_of(value)
            ended = sdk.to_wire(value) if self._wire is None else self._wire
        except Exception as error:  # noqa: BLE001 - the SDK, given the same value, will raise it where it belongs
            self.call.end_with_error(error)
            return
        self.call.end_with_result(ended, cancelled=cancelled)

    def answer(self, value: object) -> object:
        if self._wire is None and sdk.is_question(value):
            return _asked(value, self.call)
        if self._wire is None or not self._outermost:
            return value
        # A hook around us announces, and knows the result by its wire form.
        return self._tool.answering(self._wire if self._hooked else self.call.announce(self._wire))


class LowLevel:
    """Serves a method that answers for one tool of a low-level server, whose value only its caller understands."""

    def __init__(self, call: PersistedCall, active: ActiveCall, *, hooked: bool) -> None:
        self.call = call
        self.active = active
        active.call = call
        self._hooked = hooked

    def refused(self, refusal: PerdureError) -> Exception:
        """As with the other: its caller knows no error of an SDK's."""
        return refusal

    def replay(self, wire: JsonObject) -> object:
        """As the caller of the method would be given a result: it may understand no other value of ours."""
        return sdk.result_from_wire(wire if self._hooked else self.call.announce(wire))

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        arguments = dict(self.call.arguments_for_tool())  # which the method may change
        if "arguments" in kwargs:
            return args, {"arguments": arguments}
        return (*args[:-1], arguments), {}

    def leaves_result_to_sdk(self, _value: object) -> bool:
        return False

    def end(self, value: object, *, cancelled: bool = False) -> None:
        try:
            wire = sdk.to_wire(value) if sdk.is_question(value) else wire_of(value)
        except Exception as error:  # noqa: BLE001 - its caller may understand what JSON cannot hold
            self.call.end_with_error(error)
        else:
            self.call.end_with_result(wire, cancelled=cancelled)

    def answer(self, value: object) -> object:
        if sdk.is_question(value):
            return _asked(value, self.call)
        if self._hooked:
            return value
        try:
            return announced_value(value, self.call)
        except Exception:  # noqa: BLE001 - its caller may understand what we do not
            return value


def _asked(question: object, call: PersistedCall) -> object:
    """A question to the client, with the turn in its request state: here, within all that may seal that state."""
    return sdk.with_request_state(question, call.announce(sdk.to_wire(question)).get("requestState"))


def is_cancellation(error: BaseException) -> bool:
    """asyncio's or trio's, which is also the one by which a worker thread learns that its call was cancelled."""
    return isinstance(error, asyncio.CancelledError) or type(error).__module__.startswith("trio.")


Serving: TypeAlias = HighLevel | LowLevel
