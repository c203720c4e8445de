"""The stores that the settings name. Only what is used is imported: a driver may not be installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.errors import SettingsError, StoreError
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.ports import Clock, FileStore, Store
from perdure.settings import Policy, Settings
from perdure.settings_loader import data_directory

if TYPE_CHECKING:
    from perdure.middleware.persistence.supabase_api.client import SupabaseApi

__all__ = ["database_url", "postgres_driver", "stores_of", "supabase_api"]


def stores_of(settings: Settings, clock: Clock, folder: Path) -> tuple[Store, FileStore]:
    local = LocalFileStore(folder, settings.bucket)
    match settings.backend:
        case "sqlite":
            from perdure.middleware.persistence.stores.sqlite import SqliteStore  # noqa: PLC0415 - where it is used

            return SqliteStore(data_directory(settings) / "perdure.db", clock), local
        case "postgres":
            return _postgres(settings, clock), local
        case "supabase":
            return _supabase(settings, clock, folder)
        case "memory":
            from perdure.middleware.persistence.stores.memory import MemoryStore  # noqa: PLC0415

            return MemoryStore(clock), local
        case factory:
            return _of_somebody_else(factory, clock, data_directory(settings), local)


def _of_somebody_else(factory: str, clock: Clock, folder: Path, local: FileStore) -> tuple[Store, FileStore]:
    """What `package.module:factory` makes of a clock and the data directory: a store, or a store and a file store.

    Raises:
        SettingsError: There is no such thing, or it fails.
    """
    from pkgutil import resolve_name  # noqa: PLC0415 - only for a backend of somebody else's

    try:
        made = resolve_name(factory)(clock, folder)
    except StoreError:
        raise  # a store that cannot be used now says so itself
    except Exception as error:
        raise SettingsError(
            f"The backend {factory} cannot be made ({type(error).__name__}: {error}).",
            remedy="name a function that takes a clock and a folder and makes a store, as package.module:function, "
            "its package must be installed for the server's interpreter.",
        ) from error
    store, file_store = made if isinstance(made, tuple) else (made, local)
    return store, file_store


def _supabase(settings: Settings, clock: Clock, folder: Path) -> tuple[Store, FileStore]:
    from perdure.middleware.persistence.file_stores.supabase import SupabaseFileStore  # noqa: PLC0415 - where it is used
    from perdure.middleware.persistence.stores.supabase import SupabaseStore  # noqa: PLC0415

    api = supabase_api(settings)
    in_tools = [tool.file_timeout or 0.0 for tool in (settings.defaults, *settings.tools.values())]
    return (
        SupabaseStore(api, clock, timeout=settings.operation_timeout),
        SupabaseFileStore(api, settings.bucket, folder, timeout=max([Policy().file_timeout, *in_tools])),
    )


def supabase_api(settings: Settings) -> "SupabaseApi":
    """
    Raises:
        SettingsError: The project's address or the key is missing, or is none.
    """
    from perdure.middleware.persistence.supabase_api.client import SupabaseApi  # noqa: PLC0415 - where it is used

    missing = [
        name
        for name, value in (("SUPABASE_URL", settings.supabase_url), ("SUPABASE_KEY", settings.supabase_key))
        if not value
    ]
    if settings.supabase_url is None or settings.supabase_key is None or missing:
        raise SettingsError(
            f"The backend is Supabase, and there is no {' and no '.join(missing)}.",
            remedy="copy both from the project's settings, under API: its URL, and a secret or service_role key.",
        )
    return SupabaseApi(settings.supabase_url, settings.supabase_key.get_secret_value())


def _postgres(settings: Settings, clock: Clock) -> Store:
    url = database_url(settings)
    with postgres_driver():
        from perdure.middleware.persistence.stores.postgres import PostgresStore  # noqa: PLC0415 - only where it is used
    return PostgresStore(url, clock, timeout=settings.operation_timeout, max_connections=settings.max_connections)


def database_url(settings: Settings) -> str:
    """
    Raises:
        SettingsError: There is none.
    """
    if settings.database_url is None:
        raise SettingsError(
            "There is no database URL.",
            remedy="set PERDURE_DATABASE_URL (or database_url in perdure.toml) to "
            "postgresql://user:password@host:5432/database.",
        )
    return settings.database_url.get_secret_value()


@contextmanager
def postgres_driver() -> Iterator[None]:
    """Around an import of what needs psycopg.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise SettingsError(
            f"Postgres needs the driver psycopg, which is not installed ({error}).",
            remedy='install it with: pip install "perdure[postgres]".',
        ) from error
