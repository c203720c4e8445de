"""Turns in a Supabase project: the functions of `sql/postgres/migrations`, called through PostgREST."""

from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.stores.supabase.functions import SupabaseFunctions
from perdure.middleware.persistence.supabase_api.client import SupabaseApi

__all__ = ["SupabaseStore"]


class SupabaseStore(SqlFunctionStore):
    """One request begins a turn, one finishes it. Makes no connection before the first."""

    def __init__(self, api: SupabaseApi, clock: Clock | None = None, *, timeout: float = 5.0) -> None:
        """`api` is closed with the store. `timeout`: seconds of one operation, trying again included."""
        super().__init__(SupabaseFunctions(api, timeout=timeout), clock)
