"""The body of an answer as a file to read from, never more of it in memory than was asked for."""

from io import RawIOBase
from typing import Any

import httpx

from perdure.middleware.persistence.supabase_api.deadline import last_reply
from perdure.middleware.persistence.supabase_api.faults import sorted_out

__all__ = ["Download"]


class Download(RawIOBase):
    def __init__(self, response: httpx.Response, where: str) -> None:
        self._pieces = response.iter_raw()
        self._left = b""
        self._where = where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """
        Raises:
            StoreUnavailable: The connection was lost, or the time is used up.
        """
        if not self._left:
            try:
                self._left = next(self._pieces, b"")
            except Exception as error:
                fault = sorted_out(error, last_reply(), self._where)
                if fault is None:
                    raise
                raise fault.error from error
        piece = self._left[: len(buffer)]
        self._left = self._left[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)
