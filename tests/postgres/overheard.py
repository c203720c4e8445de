"""A Postgres whose calls a test listens to, and whose conversations it holds locked."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.turn import Json

__all__ = ["Overheard", "locked"]


class Overheard(PostgresFunctions):
    """Real calls, and how many turns each took along; before each, whatever the test wants to happen."""

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        super().__init__(url, timeout=timeout, max_connections=8)
        self.called: list[tuple[str, int]] = []
        self.before: Callable[[], None] = lambda: None

    def call(self, function: str, arguments: Mapping[str, Json], **how: Any) -> Json:
        turns = arguments.get("beginnings") or arguments.get("endings") or [None]
        self.called.append((function, len(turns)))
        self.before()
        return super().call(function, arguments, **how)


@contextmanager
def locked(url: str, name: str) -> Iterator[None]:
    with psycopg.connect(url) as holder:
        holder.execute("select from chat_sessions where continuation_id = %s for update", [name])
        yield
        holder.rollback()
