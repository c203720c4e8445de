"""Finds the SQL: `perdure/sql` in a wheel, the top-level folder `sql/` in a source tree."""

import re
from functools import cache
from pathlib import Path

__all__ = ["named_queries", "sql_folder"]

_PACKAGE = Path(__file__).resolve().parents[2]
_HEADER = re.compile(r"^-- (\w+): .+$", re.MULTILINE)


def sql_folder() -> Path:
    """The folder that holds `sqlite/` and, later, `postgres/`.

    Raises:
        FileNotFoundError: The installation is incomplete.
    """
    for folder in (_PACKAGE / "sql", _PACKAGE.parents[1] / "sql"):
        if (folder / "sqlite").is_dir():
            return folder
    raise FileNotFoundError(f"perdure's SQL files are missing beside {_PACKAGE}. Remedy: install perdure again.")


@cache
def named_queries(path: str) -> dict[str, str]:
    """The statements of one file by name. Each starts with a line `-- its_name: what it is for`."""
    parts = _HEADER.split((sql_folder() / path).read_text(encoding="utf-8"))
    return {name: statement.strip() for name, statement in zip(parts[1::2], parts[2::2], strict=True)}
