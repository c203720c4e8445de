"""The `tools/call` that is being served in this context: how the seams within one another know of each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from perdure.middleware.persisted_call import PersistedCall
from perdure.middleware.persistence.history import in_conversation

__all__ = ["ActiveCall", "active_call", "within"]


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
