"""The walk through docs/docker.md, as it stands there, on processes instead of containers."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.caddy import FETCHED, Caddy
from docker.compose_file import EXAMPLE, REPOSITORY, settings_in
from docker.stand_in_docker import PERDURE, StandInDocker
from documentation.console import run, sessions
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from servers.unprivileged import free_port

DOCUMENT = REPOSITORY / "docs" / "docker.md"


@pytest.fixture
def project() -> Iterator[SupabaseStack]:
    """As docker-compose.yml has it before `migrate`: a database with Supabase's roles and storage, nothing of ours."""
    with PostgresCluster() as cluster, SupabaseStack(cluster, migrated=False, process=True) as project:
        yield project


@pytest.fixture
def gateway(project: SupabaseStack) -> Iterator[Caddy]:
    assert FETCHED.exists(), f"there is no Caddy here: sh tests/docker/fetch_caddy.sh {FETCHED.parents[2]}"
    rest, storage = free_port(), free_port()
    # The stand-in is a gateway itself: what Caddy took off an address has to be put on again.
    beside = "".join(
        f":{port} {{\n\tbind 127.0.0.1\n\trewrite * {path}{{uri}}\n\treverse_proxy 127.0.0.1:{project.port}\n}}\n"
        for port, path in ((rest, "/rest/v1"), (storage, "/storage/v1"))
    )
    with Caddy(rest=f"127.0.0.1:{rest}", storage=f"127.0.0.1:{storage}", beside=beside) as caddy:
        yield caddy


@pytest.fixture
def docker(project: SupabaseStack, gateway: Caddy) -> Iterator[StandInDocker]:
    values = {**settings_in(EXAMPLE), "SERVICE_ROLE_KEY": project.service_key}
    with StandInDocker(gateway, f"http://127.0.0.1:{gateway.port}", values) as docker:
        yield docker


def test_the_walk_through_goes_as_it_is_written(project: SupabaseStack, docker: StandInDocker) -> None:
    migrated = perdure("migrate", PERDURE_DATABASE_URL=project.db_url)
    assert "The bucket mcp-files is there and private." in migrated
    assert "nothing to do" in perdure("migrate", PERDURE_DATABASE_URL=project.db_url)  # as at every later `up`
    environment = {
        **os.environ,
        "PATH": f"{docker.path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MCP_URL": f"http://127.0.0.1:{docker.port}/mcp",
    }
    subprocess.run(["docker", "compose", "up", "--detach", "--wait", "server"], env=environment, check=True)

    session = sessions(DOCUMENT, {"The walk-through", "Rolling back"})
    ran = list(run(session, folder=REPOSITORY, environment=environment))

    assert ran[-1].is_as_written, f"{ran[-1]}\n\nThe server's log ends with:\n{docker.log[-3000:]}"
    assert len(ran) == len(session) > 20
    assert len(docker.ended) >= 5, "not every restart was one"
    seen = "\n".join(line for command in ran for line in command.output)
    made, read_after_the_restart = re.findall(r"^([0-9a-f]{64}) 12000000 bytes", seen, flags=re.MULTILINE)
    assert made == read_after_the_restart
    # What is in Supabase, past everything that was asked above.
    longest = project.execute(
        "select count(distinct turn_seq), count(*) from public.chat_messages"
        " group by session_id order by count(*) desc limit 1"
    )
    assert longest == [(61, 122)]
    kept = {key.rpartition("/")[2]: key for (key,) in project.execute("select name from storage.objects")}
    large, small = sorted(kept)[1], "README.md"
    assert set(kept) == {large, small}
    assert project.object_bytes("mcp-files", kept[small]) == (REPOSITORY / small).read_bytes()
    assert hashlib.sha256(project.object_bytes("mcp-files", kept[large]) or b"").hexdigest() == made
    assert [piece.kept for piece in project.chunks(f"mcp-files/{kept[large]}")] == [6_291_456, 5_708_544]
    assert project.service_key not in docker.log + seen


def perdure(*arguments: str, **environment: str) -> str:
    ended = subprocess.run(
        [*PERDURE, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
