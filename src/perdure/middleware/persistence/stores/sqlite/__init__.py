"""The embedded default: one SQLite file, shared by any number of processes on one machine."""

from perdure.middleware.persistence.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
