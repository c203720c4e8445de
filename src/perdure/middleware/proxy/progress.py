"""Tells the client of a call how far the work on its files is."""

from collections.abc import Callable

from perdure.middleware.persistence.turn import Json
from perdure.middleware.proxy.json_rpc import Message, message_of
from perdure.middleware.rising_progress import RisingProgress

__all__ = ["CallProgress"]


class CallProgress:
    """Of one call whose client gave a token."""

    def __init__(self, token: Json, notify: Callable[[Message], None]) -> None:
        self._token = token
        self._notify = notify
        self._rising = RisingProgress()

    def tool_told(self, progress: Json) -> None:
        if isinstance(progress, int | float):
            self._rising.tool_told(float(progress))

    def tell(self, fraction: float, text: str) -> None:
        told = self._rising.next(fraction)
        self._notify(
            message_of(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": self._token, "progress": told, "message": text},
                }
            )
        )
