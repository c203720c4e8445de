"""The `tools/call` that is being served in this context: how the seams within one another know of each other."""

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any

from perdure.middleware.persisted_call import PersistedCall
from perdure.middleware.persistence.history import Conversation, conversation_here
from perdure.quick_values import mutable

__all__ = ["ActiveCall", "active_call", "within"]


@mutable()
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


class within:  # noqa: N801 - read as a verb: `with within(active)`
    """Everything inside is part of this call; `current_conversation()` tells its conversation if it is persisted."""

    __slots__ = ("_active", "_conversation", "_token")

    _conversation: "Token[Callable[[], Conversation] | None] | None"

    def __init__(self, active: ActiveCall) -> None:
        self._active = active

    def __enter__(self) -> None:
        call = self._active.call
        self._token: Token[ActiveCall | None] = active_call.set(self._active)
        self._conversation = None
        if call is not None:
            self._conversation = conversation_here.set(call.conversation)

    def __exit__(self, *_: object) -> None:
        if self._conversation is not None:
            conversation_here.reset(self._conversation)
        active_call.reset(self._token)
