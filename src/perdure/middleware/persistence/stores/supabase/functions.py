"""Calls the SQL functions by the official client, within one deadline, and again where that may help."""

import time
from collections.abc import Mapping

from perdure.middleware.persistence.supabase_api.asking import asked
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.turn import Json

__all__ = ["SupabaseFunctions"]


class SupabaseFunctions:
    def __init__(self, api: SupabaseApi, *, timeout: float) -> None:
        self.where = api.where
        self._api = api
        self.timeout = timeout

    def call(
        self, function: str, arguments: Mapping[str, Json], *, deadline: float | None = None, again: bool = True
    ) -> Json:
        given = {name: value for name, value in arguments.items() if value is not None}

        def answer() -> Json:
            data = self._api.client.rpc(function, given).execute().data
            if not isinstance(data, dict):  # a page of HTML, or nothing at all, with status 200
                raise ValueError(type(data).__name__)
            return data

        if deadline is None:
            deadline = time.monotonic() + self.timeout
        return asked(self._api, answer, deadline=deadline, again=again)

    def close(self) -> None:
        self._api.close()
