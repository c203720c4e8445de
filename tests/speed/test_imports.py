"""A stdio server is started for each session: what it does not use, it must not wait for."""

import json
import subprocess
import sys

import pytest

ONLY_WHERE_USED = {
    "supabase", "postgrest", "storage3", "httpx", "psycopg",  # backends
    "typer", "rich", "structlog", "click",  # the command line, and the log's first line
    "jsonschema", "puremagic", "pydantic_settings", "sqlite3", "difflib", "platformdirs",  # the first call, or later
}  # fmt: skip

_ADDED = """
import json, sys
import mcp
before = set(sys.modules)
import perdure
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


@pytest.fixture(scope="module")
def added() -> set[str]:
    """The packages that `import perdure` brings, beside those of `import mcp`."""
    done = subprocess.run([sys.executable, "-I", "-c", _ADDED], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def test_importing_perdure_imports_nothing_that_waits_until_it_is_used(added: set[str]) -> None:
    assert "perdure" in added
    assert added & ONLY_WHERE_USED == set()
