"""What each page needs around it. A page that is not named here needs an empty directory and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from documentation.days_of_use import fill
from documentation.following import Stage
from proxy.test_typescript import INSTALLED
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure.middleware.persistence.wiring import build
from perdure.settings import Settings
from perdure.testing.turns import a_turn, answered

__all__ = ["ELSEWHERE", "stage_of"]

ELSEWHERE = {"docs/docker.md": "tests/docker/test_walk_through.py"}
"""Pages that other tests follow, on processes in the place of containers."""

URL = "postgresql://user:password@host:5432/database"
"""As pages write it."""


@contextmanager
def stage_of(name: str, home: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with _STAGES.get(name, _plain)(home, request) as stage:
        yield stage


@contextmanager
def _plain(home: Path, _request: pytest.FixtureRequest) -> Iterator[Stage]:
    yield Stage(home)


@contextmanager
def _kept(home: Path, _request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A user's data of some days, in SQLite."""
    fill(home / "data")
    yield Stage(home, environment={"PERDURE_DATA_DIR": str(home / "data")})


@contextmanager
def _kept_beside_a_project(home: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    fill(home / "data")
    project: SupabaseStack = request.getfixturevalue("supabase")
    yield Stage(home, environment={"PERDURE_DATA_DIR": str(home / "data")}, replaced=_names_of(project))


@contextmanager
def _project(home: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    yield Stage(home, replaced=_names_of(request.getfixturevalue("supabase")))


@contextmanager
def _database(home: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    url: str = request.getfixturevalue("database_url")
    yield Stage(home, replaced={URL: url}, database_url=url)


@contextmanager
def _new_database(home: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    url = cluster.url(cluster.create_database("documented"))
    yield Stage(home, replaced={URL: url}, database_url=url)


@contextmanager
def _waiting(home: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Turns that wait on this machine: their store was away, and is back."""
    environment = {
        "PERDURE_DATA_DIR": str(home / "data"),
        "PERDURE_BACKEND": "postgres",
        "PERDURE_DATABASE_URL": request.getfixturevalue("database_url"),
    }
    away = build(Settings(data_dir=home / "data", backend="postgres", database_url=environment["PERDURE_DATABASE_URL"]))
    assert away.spool is not None
    away.spool._drainer.stop()
    for number in range(12):
        turn = a_turn(f"prompt {number}", continuation_id=f"conversation {number % 3}", principal="local")
        away.spool.keep(answered(turn, "answer"))
    away.spool.close()
    away.engine.store.close()
    yield Stage(home, environment=environment)


@contextmanager
def _somebodys_server(home: Path, _request: pytest.FixtureRequest) -> Iterator[Stage]:
    work = home / "work"
    (work / "their_package").mkdir(parents=True)
    for place in (work / "server.py", work / "their_package" / "__main__.py"):
        place.write_text(_SERVER)
    yield Stage(home, replaced={"/srv/theirs": str(work)})


@contextmanager
def _typescript(home: Path, _request: pytest.FixtureRequest) -> Iterator[Stage]:
    everything = INSTALLED / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
    replaced = {
        "npx -y @modelcontextprotocol/server-everything": f"node {everything}",
        '"npx", "-y", "@modelcontextprotocol/server-everything"': f'"node", "{everything}"',
        "/home/me": str(home / "work"),
    }
    yield Stage(home, replaced=replaced)


def _names_of(project: SupabaseStack) -> dict[str, str]:
    return {"https://….supabase.co": project.url, "sb_secret_…": project.secret_key}


_SERVER = """
from mcp.server.mcpserver import MCPServer

mcp = MCPServer("theirs")


@mcp.tool()
async def chat(prompt: str) -> str:
    return prompt.upper()


if __name__ == "__main__":
    mcp.run()
"""

_STAGES: dict[str, Callable[[Path, pytest.FixtureRequest], AbstractContextManager[Stage]]] = {
    "docs/guides/backends.md": _kept_beside_a_project,
    "docs/guides/conversations.md": _kept,
    "docs/guides/operating.md": _waiting,
    "docs/guides/postgres.md": _new_database,
    "docs/guides/privacy.md": _kept,
    "docs/guides/proxy.md": _typescript,
    "docs/guides/replicas.md": _database,
    "docs/guides/run.md": _somebodys_server,
    "docs/guides/supabase.md": _project,
}
