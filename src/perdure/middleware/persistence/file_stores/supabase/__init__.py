"""The file store over Supabase Storage."""

from perdure.middleware.persistence.file_stores.supabase.store import SupabaseFileStore

__all__ = ["SupabaseFileStore"]
