"""Turns in Postgres, over connections of our own. What the functions do is in `sql/postgres/migrations`."""

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore

__all__ = ["PostgresStore"]


class PostgresStore(SqlFunctionStore):
    """Connects at the first call, so that a database that is away never keeps a server from starting."""

    def __init__(self, url: str, clock: Clock | None = None, *, timeout: float = 5.0, max_connections: int = 8) -> None:
        """`timeout`: seconds that one operation may take, waiting for a connection and trying again included.

        Raises:
            SettingsError: `url` is not one of Postgres.
        """
        super().__init__(PostgresFunctions(url, timeout=timeout, max_connections=max_connections), clock)
