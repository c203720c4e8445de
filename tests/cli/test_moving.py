"""`perdure export` and `perdure import`, run as programs between an embedded database and a Supabase project."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack

from perdure import persisted
from perdure.middleware.persistence.turn import Turn
from perdure.middleware.persistence.wiring import Runtime, activated, build
from perdure.settings import Settings


@dataclass
class Side:
    """A backend, as a server's settings and as a shell's environment name it."""

    settings: dict[str, Any]
    environment: dict[str, str]
    out: Path
    secrets: list[str] = field(default_factory=list)

    def runtime(self) -> Runtime:
        return build(Settings(**self.settings, defaults={"file_roots": [str(self.out)]}))

    async def talk(self, *subjects: str, conversation: str = "plans") -> list[str]:
        """Have a tool answer each call with a file; the URIs that its client was given."""
        server = MCPServer("moving")

        @server.tool()
        @persisted
        def write(about: str) -> str:
            self.out.mkdir(exist_ok=True)
            (self.out / "plan.txt").write_text(f"the plan for {about}")
            return str(self.out / "plan.txt")

        runtime = self.runtime()
        with activated(runtime), closing(runtime.engine.store):
            async with Client(server) as client:
                results = [
                    await client.call_tool("write", {"about": about, "continuation_id": conversation})
                    for about in subjects
                ]
        return [result.content[0].text for result in results]

    def kept(self, user: str = "local") -> tuple[list[Turn], dict[str, bytes]]:
        """All turns and the content of all files."""
        runtime = self.runtime()
        with closing(runtime.engine.store):
            turns = [
                turn
                for line in sorted(runtime.engine.conversations(user), key=lambda line: line.continuation_id)
                for turn in runtime.engine.turns(user, line.continuation_id)
            ]
            contents = {}
            for file in runtime.engine.store.files(user):
                with runtime.keeper.file_store.read(file.key) as content:
                    contents[f"{file.uri} version {file.version} in {file.continuation_id}"] = content.read()
        return turns, contents

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        ran = subprocess.run(
            [sys.executable, "-c", "from perdure.cli import main; main()", *arguments],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for secret in self.secrets:
            assert secret not in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr
        assert "\x1b" not in ran.stdout, "a bar, or a colour, in a pipe"
        assert "\r" not in ran.stdout
        return ran

    def moved(self, *arguments: str) -> str:
        """What a run said that went well."""
        ran = self.run(*arguments)
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout


@pytest.fixture(scope="module")
def stack(supabase_cluster: PostgresCluster) -> Iterator[SupabaseStack]:
    with SupabaseStack(supabase_cluster) as made:
        yield made


@pytest.fixture
def cloud(stack: SupabaseStack, tmp_path: Path) -> Side:
    stack.empty()
    data = tmp_path / "of the cloud"
    return Side(
        settings={
            "backend": "supabase",
            "supabase_url": stack.url,
            "supabase_key": stack.secret_key,
            "data_dir": data,
        },
        environment={
            "USE_SUPABASE": "true",
            "SUPABASE_URL": stack.url,
            "SUPABASE_KEY": stack.secret_key,
            "PERDURE_DATA_DIR": str(data),
        },
        out=tmp_path / "out",
        secrets=[stack.secret_key],
    )


def embedded(data: Path) -> Side:
    return Side(settings={"data_dir": data}, environment={"PERDURE_DATA_DIR": str(data)}, out=data.parent / "out")


@pytest.fixture
def here(tmp_path: Path) -> Side:
    return embedded(tmp_path / "here")


async def test_everything_moves_into_supabase_and_back(here: Side, cloud: Side, tmp_path: Path) -> None:
    await here.talk("lunch", "dinner")
    uris = await here.talk("lunch", conversation="other plans")
    before = here.kept()
    assert (len(before[0]), len(before[1])) == (3, 3)
    folder, back = str(tmp_path / "archive"), str(tmp_path / "back")

    said = here.moved("export", folder)
    assert said == f"2 conversations, 3 turns and 3 files (37 bytes) written to {folder}\n"
    assert cloud.moved("import", folder) == "3 turns and 2 files imported into supabase.\n"
    assert cloud.kept() == before

    assert cloud.moved("export", back).startswith("2 conversations, 3 turns and 3 files (37 bytes)")
    again = embedded(tmp_path / "again")
    assert again.moved("import", back) == "3 turns and 2 files imported into sqlite.\n"
    assert again.kept() == before
    shown = again.run("files", "get", uris[0], "--output", str(tmp_path / "got.txt"))
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "got.txt").read_text() == "the plan for lunch"


async def test_what_supabase_has_moves_into_an_embedded_database(here: Side, cloud: Side, tmp_path: Path) -> None:
    await cloud.talk("lunch", "dinner")
    before = cloud.kept()
    assert len(before[0]) == 2
    folder = str(tmp_path / "archive")
    assert "1 conversation, 2 turns and 2 files" in cloud.moved("export", folder)
    assert here.moved("import", folder) == "2 turns and 2 files imported into sqlite.\n"
    assert here.kept() == before


async def test_importing_again_says_what_was_here_and_goes_on_with_what_was_not(
    here: Side, cloud: Side, tmp_path: Path
) -> None:
    await here.talk("lunch")
    here.moved("export", str(tmp_path / "first"))
    cloud.moved("import", str(tmp_path / "first"))
    await here.talk("dinner")
    here.moved("export", str(tmp_path / "second"))
    said = cloud.moved("import", str(tmp_path / "second"))
    assert said == "1 turn and 1 file imported into supabase, 1 turn was here already.\n"
    assert cloud.kept() == here.kept()
    before = cloud.kept()
    said = cloud.moved("import", str(tmp_path / "second"))
    assert said == "0 turns and 0 files imported into supabase, 2 turns were here already.\n"
    assert cloud.kept() == before


async def test_one_user_is_exported_alone(here: Side, cloud: Side, tmp_path: Path) -> None:
    await here.talk("lunch")
    assert "1 conversation, 1 turn and" in here.moved("export", str(tmp_path / "all"), "--user", "local")
    assert "0 conversations, 0 turns and 0 files" in here.moved("export", str(tmp_path / "bob"), "--user", "bob")
    assert cloud.moved("import", str(tmp_path / "bob")) == "0 turns and 0 files imported into supabase.\n"


async def test_a_bucket_of_another_name_is_pointed_out(here: Side, cloud: Side, tmp_path: Path) -> None:
    await here.talk("lunch")
    here.moved("export", str(tmp_path / "archive"))
    elsewhere = embedded(tmp_path / "elsewhere")
    ran = elsewhere.run("import", str(tmp_path / "archive"), PERDURE_BUCKET="our-files")
    assert (ran.returncode, ran.stdout) == (0, "1 turn and 1 file imported into sqlite.\n")
    assert "storage://mcp-files/" in ran.stderr
    assert "Set the bucket to mcp-files" in ran.stderr


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────


def refused(ran: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """One fault in one line, and its remedy in the next."""
    assert (ran.returncode, ran.stdout) == (1, "")
    fault, remedy = ran.stderr.splitlines()
    assert fault.startswith("perdure: ")
    assert remedy.startswith("Remedy: ")
    for word in words:
        assert word in ran.stderr


@pytest.fixture
async def archive(here: Side, tmp_path: Path) -> Path:
    await here.talk("lunch")
    here.moved("export", str(tmp_path / "archive"))
    return tmp_path / "archive"


async def test_an_export_into_a_folder_that_is_not_empty_is_refused(here: Side, archive: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    refused(here.run("export", str(archive)), "is not empty")
    assert {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()} == before
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    refused(here.run("export", str(tmp_path / "home")), "is not empty")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"], "it was left as it was"


def test_an_import_from_what_is_no_archive_is_refused(cloud: Side, tmp_path: Path) -> None:
    refused(cloud.run("import", str(tmp_path / "nowhere")), "nowhere")
    (tmp_path / "empty").mkdir()
    refused(cloud.run("import", str(tmp_path / "empty")), "no archive", "perdure export")


def _cut(archive: Path) -> None:
    lines = (archive / "turns.jsonl").read_bytes()
    (archive / "turns.jsonl").write_bytes(lines[:-20])


def _without_end(archive: Path) -> None:
    (archive / "manifest.json").unlink()


def _no_json(archive: Path) -> None:
    (archive / "manifest.json").write_text("{")


def _without_lines(archive: Path) -> None:
    (archive / "turns.jsonl").unlink()


def _newer(archive: Path) -> None:
    manifest = json.loads((archive / "manifest.json").read_text())
    (archive / "manifest.json").write_text(json.dumps({**manifest, "version": 3}))


def _half_a_manifest(archive: Path) -> None:
    manifest = json.loads((archive / "manifest.json").read_text())
    del manifest["sha256"], manifest["turns"], manifest["buckets"]
    (archive / "manifest.json").write_text(json.dumps(manifest))


def _with_other_content(archive: Path) -> None:
    for path in (archive / "files").iterdir():
        path.write_text("something else")


@pytest.mark.parametrize(
    "spoil", [_cut, _without_end, _no_json, _without_lines, _newer, _half_a_manifest, _with_other_content]
)
async def test_a_broken_archive_is_refused(archive: Path, cloud: Side, spoil: Any) -> None:
    spoil(archive)
    refused(cloud.run("import", str(archive)), str(archive))


async def test_a_backend_that_forgets_takes_no_import(archive: Path, here: Side) -> None:
    refused(here.run("import", str(archive), PERDURE_BACKEND="memory"), "memory")


async def test_a_project_that_cannot_be_used_is_named(
    archive: Path, cloud: Side, supabase_cluster: PostgresCluster
) -> None:
    refused(cloud.run("import", str(archive), SUPABASE_URL="http://127.0.0.1:9"), "SUPABASE_URL")
    refused(cloud.run("import", str(archive), SUPABASE_KEY="sb_secret_wrong"), "SUPABASE_KEY")
    refused(cloud.run("export", str(archive.parent / "new"), SUPABASE_KEY="sb_secret_wrong"), "SUPABASE_KEY")
    with SupabaseStack(supabase_cluster, migrated=False) as bare:
        refused(
            cloud.run("import", str(archive), SUPABASE_URL=bare.url, SUPABASE_KEY=bare.secret_key), "perdure migrate"
        )


async def test_an_export_that_failed_may_be_tried_again_into_the_same_folder(cloud: Side, tmp_path: Path) -> None:
    await cloud.talk("lunch")
    folder = str(tmp_path / "archive")
    refused(cloud.run("export", folder, SUPABASE_KEY="sb_secret_wrong"), "SUPABASE_KEY")
    assert "1 conversation, 1 turn and" in cloud.moved("export", folder)


async def test_content_that_is_gone_is_named_and_the_rest_moves(here: Side, cloud: Side, tmp_path: Path) -> None:
    [uri] = await here.talk("lunch")
    shutil.rmtree(tmp_path / "here" / "files" / "mcp-files")
    ran = here.run("export", str(tmp_path / "archive"))
    assert ran.returncode == 0
    assert uri in ran.stderr
    assert cloud.moved("import", str(tmp_path / "archive")) == "1 turn and 0 files imported into supabase.\n"
