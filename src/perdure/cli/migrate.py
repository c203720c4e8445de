"""`perdure migrate`: the schema of Postgres and Supabase. SQLite brings itself up to date."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.text import Text

from perdure.cli.terminal import console, reader_may_go
from perdure.errors import PerdureError
from perdure.middleware.persistence.backends import database_url, postgres_driver
from perdure.middleware.persistence.migrations.postgres_files import (
    as_one_text,
    postgres_migrations,
    write_for_supabase,
)
from perdure.settings import Settings

__all__ = ["migrate", "migration_text"]


def migrate(settings: Settings, url: str | None) -> None:
    """Run what is missing, a line for each.

    Raises:
        PerdureError: It cannot be done: the message says why, and what to do.
    """
    with postgres_driver():
        from perdure.middleware.persistence.migrations import postgres  # noqa: PLC0415 - only where it is used
        from perdure.middleware.persistence.stores.postgres.functions import database_name  # noqa: PLC0415
    url = url or database_url(settings)
    where = database_name(url)
    done = postgres.apply(url, where, _tell)
    newest = postgres_migrations()[-1].version
    _tell(f"{where} is at schema version {newest}" + ("." if done else ": nothing to do."))


def migration_text(folder: Path | None) -> None:
    """The SQL itself: into `folder`, or on stdout if there is none."""
    if folder is None:
        with reader_may_go():
            sys.stdout.buffer.write(as_one_text().encode())  # whatever the terminal's encoding: files are read as UTF-8
        return
    try:
        written = write_for_supabase(folder, datetime.now(UTC))
    except OSError as error:
        raise PerdureError(
            f"{folder} cannot be written: {error.strerror}.", remedy="name your project's supabase/migrations."
        ) from error
    for path in written:
        _tell(f"{path}: written")
    _tell("Next: supabase db push" if written else f"{folder} has all of them already.")


def _tell(line: str) -> None:
    console().print(Text(line), soft_wrap=True)
