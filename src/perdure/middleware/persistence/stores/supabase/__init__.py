"""The store over Supabase's Database, by its HTTP API."""

from perdure.middleware.persistence.stores.supabase.store import SupabaseStore

__all__ = ["SupabaseStore"]
