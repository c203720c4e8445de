"""The migration files themselves: their order, their checksums, and whether a database's record agrees with them."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.sql_files import sql_folder

__all__ = ["Migration", "migration_files", "missing"]

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_OWN_CHECKSUM = re.compile(r"(?<=')(?:[0-9a-f]{64})?(?='\);\n)")
"""Where a file that keeps its own record names its checksum: the last value of its insert."""


class Migration(NamedTuple):
    version: int
    name: str
    checksum: str
    """SHA-256 of the file, in hex; of a file that names it itself, without that name."""
    sql: str

    @property
    def label(self) -> str:
        return f"{self.version:04} {self.name}"


@cache
def migration_files(database: str) -> tuple[Migration, ...]:
    """Those of `sql/<database>/migrations`, in their order."""
    return tuple(
        _read(path.name, path.read_text(encoding="utf-8"))
        for path in sorted((sql_folder() / database / "migrations").glob("*.sql"))
    )


def missing(files: Iterable[Migration], applied: Mapping[int, str], where: str) -> list[Migration]:
    """Those of `files` that a database lacks. `applied`: version and checksum, as the database has recorded them.

    Raises:
        StoreUnavailable: The database was made by a newer perdure, or a migration was changed after it ran.
    """
    known = {migration.version: migration for migration in files}
    for version, checksum in applied.items():
        if version not in known:
            raise StoreUnavailable(
                f"The database {where} has schema version {version}; this perdure knows up to {max(known)}.",
                remedy="upgrade perdure to the version that made the database, or name another database.",
            )
        if known[version].checksum != checksum:
            raise StoreUnavailable(
                f"Schema version {version} of the database {where} is not the one this perdure ships.",
                remedy="install the release of perdure that made the database.",
            )
    return [migration for version, migration in known.items() if version not in applied]


def _read(file_name: str, sql: str) -> Migration:
    match = _FILE_NAME.fullmatch(file_name)
    if match is None:
        raise ValueError(f"A migration is called NNNN_name.sql, not {file_name}")
    blank = _OWN_CHECKSUM.sub("", sql)
    return Migration(int(match[1]), match[2], hashlib.sha256(blank.encode()).hexdigest(), sql)
