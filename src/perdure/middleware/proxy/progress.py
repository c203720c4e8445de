"""Progress that only ever rises, though two report it: the tool behind the proxy, and perdure on the call's files."""

from collections.abc import Callable

from perdure.middleware.persistence.turn import Json
from perdure.middleware.proxy.json_rpc import Message, message_of

__all__ = ["CallProgress"]


class CallProgress:
    """Of one call whose client gave a token. What comes before the tool's first value lies below 0."""

    def __init__(self, token: Json, notify: Callable[[Message], None]) -> None:
        self._token = token
        self._notify = notify
        self._tools_last = -1.0
        self._told = -1.0

    def tool_told(self, progress: Json) -> None:
        if isinstance(progress, int | float):
            self._tools_last = self._told = max(self._tools_last, float(progress))

    def tell(self, fraction: float, text: str) -> None:
        # Of several files each begins anew: then only a little further.
        self._told = max(self._tools_last + 0.99 * fraction, self._told + 1e-6)
        self._notify(
            message_of(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": self._token, "progress": self._told, "message": text},
                }
            )
        )
