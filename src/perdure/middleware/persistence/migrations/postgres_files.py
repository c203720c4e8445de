"""The migration files for Postgres as texts: for an SQL editor, and for the Supabase CLI. Needs no driver."""

from datetime import datetime, timedelta
from pathlib import Path

from perdure.middleware.persistence.migrations.numbered_files import Migration, migration_files

__all__ = ["as_one_text", "postgres_migrations", "write_for_supabase"]


def postgres_migrations() -> tuple[Migration, ...]:
    return migration_files("postgres")


def as_one_text() -> str:
    """All files in their order, to be pasted into an SQL editor. A second time does no harm."""
    return "\n".join(migration.sql for migration in postgres_migrations())


def write_for_supabase(folder: Path, now: datetime) -> list[Path]:
    """Write the files that `folder` (`supabase/migrations`) lacks, under names that its CLI pushes in this order.

    They are stamped with `now`, so that they come after the project's own. Returns what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name.split("_", 1)[-1] for path in folder.glob("*.sql")}
    written = []
    for number, migration in enumerate(postgres_migrations()):
        name = f"perdure_{migration.version:04}_{migration.name}.sql"
        if name not in there:
            path = folder / f"{now + timedelta(seconds=number):%Y%m%d%H%M%S}_{name}"
            path.write_text(migration.sql, encoding="utf-8")
            written.append(path)
    return written
