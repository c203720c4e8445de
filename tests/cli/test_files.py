"""`perdure files`, run as a program over what real tools gave out."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

from perdure import persisted, stored_files
from perdure.middleware.persistence.wiring import activated, build
from perdure.settings import Settings


class Kept:
    def __init__(self, folder: Path, server: MCPServer) -> None:
        self.folder = folder
        self.server = server

    async def give_out(self, name: str, text: str, conversation: str = "c") -> str:
        """Have a tool write a file and give it out; the URI that its client gets."""
        arguments = {"path": str(self.folder / "out" / name), "text": text, "continuation_id": conversation}
        async with Client(self.server) as client:
            result = await client.call_tool("write", arguments)
        return result.content[0].text

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PERDURE_DATA_DIR": str(self.folder / "data"), "PERDURE_CONFIG": os.devnull}
        return subprocess.run(
            [sys.executable, "-c", "from perdure.cli import main; main()", "files", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def listed(self, *arguments: str) -> list[dict]:
        ran = self.run(*arguments, "--json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)["files"]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    server = MCPServer("files")

    @server.tool()
    @persisted(file_roots=[str(tmp_path / "out")])
    def write(path: str, text: str) -> str:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
        return path

    with activated(build(Settings(data_dir=tmp_path / "data"))):
        yield Kept(tmp_path, server)


async def test_files_are_listed_for_programs_with_everything_that_is_kept(kept: Kept) -> None:
    uri = await kept.give_out("a.txt", "hello")

    (file,) = kept.listed("list")

    assert file["uri"] == uri
    assert (file["name"], file["version"], file["size"], file["media_type"]) == ("a.txt", 1, 5, "text/plain")
    assert file["continuation_id"] == "c"
    assert uri.split("/")[4] == file["sha256"]


async def test_a_uri_stands_in_one_piece_so_that_people_can_copy_it(kept: Kept) -> None:
    uri = await kept.give_out("a.txt", "hello")

    assert f"  {uri}\n" in kept.run("list").stdout


async def test_versions_of_a_name_are_listed_the_newest_first(kept: Kept) -> None:
    for text in ("one", "two", "two", "three"):
        await kept.give_out("a.txt", text)
    await kept.give_out("b.txt", "other")

    assert [file["version"] for file in kept.listed("versions", "a.txt")] == [3, 2, 2, 1]


async def test_versions_are_asked_for_by_the_api_too(kept: Kept) -> None:
    uris = [await kept.give_out("a.txt", text) for text in ("one", "two", "two")]
    await kept.give_out("a.txt", "one", "another conversation")

    found = stored_files("a.txt", continuation_id="c")

    assert [(file.version, file.uri) for file in found] == [(2, uris[2]), (2, uris[1]), (1, uris[0])]
    assert len(stored_files()) == 4
    assert stored_files("a.txt", user="somebody") == []


async def test_a_list_can_be_of_one_conversation(kept: Kept) -> None:
    await kept.give_out("a.txt", "x", "first")
    await kept.give_out("b.txt", "y", "second")

    assert [file["name"] for file in kept.listed("list", "--conversation", "second")] == ["b.txt"]
    assert kept.listed("list", "--user", "somebody") == []


async def test_a_file_is_got_back_with_its_content(kept: Kept, tmp_path: Path) -> None:
    uri = await kept.give_out("a.txt", "hello")
    (tmp_path / "out" / "a.txt").unlink()

    ran = kept.run("get", uri, "--output", str(tmp_path / "back.txt"))

    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "back.txt").read_text() == "hello"


async def test_getting_a_file_never_overwrites_another(kept: Kept, tmp_path: Path) -> None:
    uri = await kept.give_out("a.txt", "hello")
    (tmp_path / "mine.txt").write_text("mine")

    ran = kept.run("get", uri, "--output", str(tmp_path / "mine.txt"))

    assert ran.returncode == 1
    assert "Remedy: name a file that is not there yet." in ran.stderr
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("of", ["--user=bob", "--user=local"])
async def test_a_file_that_is_not_there_or_not_ones_own_leaves_nothing_behind(
    kept: Kept, tmp_path: Path, of: str
) -> None:
    uri = await kept.give_out("a.txt", "hello")
    asked = uri if of == "--user=bob" else uri.replace("/a.txt", "/b.txt")

    ran = kept.run("get", asked, of, "--output", str(tmp_path / "back.txt"))

    assert ran.returncode == 1
    assert f"There is no file {asked}." in ran.stderr
    assert not (tmp_path / "back.txt").exists()


async def test_content_that_was_altered_in_the_store_is_not_handed_out(kept: Kept, tmp_path: Path) -> None:
    uri = await kept.give_out("a.txt", "hello")
    _, tenant, sha256, _ = uri.removeprefix("storage://").split("/")
    (tmp_path / "data" / "files" / "mcp-files" / tenant / sha256).write_text("other")

    ran = kept.run("get", uri, "--output", str(tmp_path / "back.txt"))

    assert ran.returncode == 1
    assert "is not what was kept" in ran.stderr
    assert not (tmp_path / "back.txt").exists()
