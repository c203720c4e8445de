"""What a decorated handler is called with: its own arguments, out of those that the SDK has for its stand-in."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from perdure.middleware.active_call import active_call
from perdure.middleware.handler_signature import CONTEXT_PARAMETER, HandlerSignature
from perdure.middleware.lowlevel_values import schema_of
from perdure.middleware.persistence.history import History, current_conversation
from perdure.middleware.persistence.wiring import runtime
from perdure.middleware.sdk import sdk
from perdure.middleware.tool_schema import CONTINUATION_ID, is_stray_id

__all__ = ["Arguments", "HandlerArguments"]

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class HandlerArguments:
    def __init__(self, handler: Callable[..., Any], signature: HandlerSignature) -> None:
        self.added = (CONTEXT_PARAMETER,) if signature.declares_id else (CONTEXT_PARAMETER, CONTINUATION_ID)
        """The parameters that the SDK sees, and the handler does not have."""
        self.takes_history = signature.history_parameter is not None
        self.were_persisted = False
        """Those of a class-based tool, in this process: a client may have an id of ours."""
        self._handler = handler
        self._signature = signature

    def straight_through(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of a call that goes straight through."""
        if self._signature.takes_arguments:
            args, kwargs = self._without_stray_id(args, kwargs)
        conversation = current_conversation()
        return self.declared(args, kwargs, conversation.history if conversation else History())

    def _without_stray_id(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """What a class-based tool gets that is switched off by now: not the id that a client still sends."""
        sent = kwargs.get("arguments", args[-1] if args else None)
        request = sdk.current_request() if isinstance(sent, Mapping) and CONTINUATION_ID in sent else None
        active = active_call.get()
        if request is None or (active is not None and active.key is request.key and active.call is not None):
            return args, kwargs  # Called from Python, or from the body of a tool.
        owner = getattr(self._handler, "__self__", args[0] if len(args) > 1 else None)
        try:
            if not is_stray_id(schema_of(owner), was_on=self.were_persisted):
                return args, kwargs
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            runtime().say("call.not_understood", error)
            return args, kwargs
        stripped = {name: value for name, value in dict(sent or {}).items() if name != CONTINUATION_ID}
        return (args, {**kwargs, "arguments": stripped}) if "arguments" in kwargs else ((*args[:-1], stripped), kwargs)

    def declared(self, args: tuple[Any, ...], kwargs: dict[str, Any], history: History) -> Arguments:
        """What the handler itself declares: less what was added to its signature, and with its history."""
        own = dict(kwargs)
        for name in self.added:
            own.pop(name, None)
        parameter = self._signature.history_parameter
        if parameter is not None and parameter not in own and not self._is_among(args, parameter):
            own[parameter] = history
        return args, own

    def parameter_of(self, argument: str | None) -> str | None:
        return self._signature.parameter_of(argument)

    def _is_among(self, args: tuple[Any, ...], parameter: str) -> bool:
        return bool(args) and parameter in inspect.signature(self._handler).bind_partial(*args).arguments
