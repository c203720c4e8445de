"""The store over a direct connection to Postgres."""

from perdure.middleware.persistence.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
