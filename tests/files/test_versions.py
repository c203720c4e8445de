"""New content under the same logical name is the next version; identical bytes are stored once."""

import os
from pathlib import Path

import anyio
import pytest
from files.conftest import BUCKET, Place, called, files_in, texts, uri_of
from mcp import Client

from perdure.errors import FileMissing
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
def place_of(place: Place, request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A place over each embedded store: it is the store that counts versions."""
    place.store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "perdure.db")
    place.set()
    yield place
    place.store.close()


class Writer:
    """A tool that writes a text to a file of a name and gives it out."""

    def __init__(self, place: Place) -> None:
        self.place = place

        def write(name: str, text: str) -> str:
            return str(place.file(name, text.encode()))

        self.server = place.server(write)

    async def write(self, name: str, text: str, conversation: str = "c") -> dict:
        result = await called(self.server, "write", {"name": name, "text": text, "continuation_id": conversation})
        (file,) = files_in(result)["stored"]
        return file

    def versions(self, name: str, conversation: str | None = None) -> list[tuple[int, str]]:
        """As the API tells them, newest first: the version, and what it holds."""
        files = self.place.runtime.engine.files("local", conversation, name)
        return [(file.version, self.place.content(file.uri).decode()) for file in files]


def contents_in_store() -> list[bytes]:
    folder = Path(os.environ["PERDURE_DATA_DIR"]) / "files" / BUCKET
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_new_content_under_the_same_name_is_the_next_version(place_of: Place) -> None:
    writer = Writer(place_of)
    assert [(await writer.write("a.txt", text))["version"] for text in ("one", "two", "three")] == [1, 2, 3]
    assert writer.versions("a.txt") == [(3, "three"), (2, "two"), (1, "one")]


async def test_every_version_can_still_be_had_under_its_own_uri(place_of: Place) -> None:
    writer = Writer(place_of)
    uris = [(await writer.write("a.txt", text))["uri"] for text in ("one", "two")]
    assert len(set(uris)) == 2
    assert [place_of.content(uri) for uri in uris] == [b"one", b"two"]


async def test_the_same_content_again_is_the_same_version_and_a_row_for_its_turn(place_of: Place) -> None:
    writer = Writer(place_of)
    first, again = await writer.write("a.txt", "same"), await writer.write("a.txt", "same")
    assert (first["version"], again["version"]) == (1, 1)
    assert first["uri"] == again["uri"]
    files = place_of.runtime.engine.files("local", None, "a.txt")
    assert len({file.turn_id for file in files}) == len(files) == 2


async def test_content_that_comes_back_after_another_does_not_alter_what_it_was(place_of: Place) -> None:
    writer = Writer(place_of)
    versions = [(await writer.write("a.txt", text))["version"] for text in ("one", "two", "one", "three")]
    assert versions[:2] == [1, 2]
    assert versions[3] == max(versions)
    assert len(set(writer.versions("a.txt"))) == len({version for version, _ in writer.versions("a.txt")})


async def test_names_count_their_versions_apart(place_of: Place) -> None:
    writer = Writer(place_of)
    await writer.write("a.txt", "one")
    await writer.write("a.txt", "two")
    assert (await writer.write("b.txt", "other"))["version"] == 1
    assert (await writer.write("A.txt", "other"))["version"] == 1


async def test_names_that_are_safe_alike_are_not_the_same_name(place_of: Place) -> None:
    writer = Writer(place_of)
    one, two = await writer.write("ä.txt", "1"), await writer.write("ö.txt", "2")
    assert (one["version"], two["version"]) == (1, 1)
    assert (one["name"], two["name"]) == ("ä.txt", "ö.txt")


async def test_conversations_count_their_versions_apart(place_of: Place) -> None:
    writer = Writer(place_of)
    await writer.write("a.txt", "one", "first")
    assert (await writer.write("a.txt", "two", "second"))["version"] == 1
    assert writer.versions("a.txt", "second") == [(1, "two")]


async def test_users_count_their_versions_apart_and_see_only_their_own(place_of: Place) -> None:
    writer = Writer(place_of)
    await writer.write("a.txt", "of local")
    place_of.set(settings={"user_id": "bob"})
    file = await writer.write("a.txt", "of bob")
    assert file["version"] == 1
    assert [found.uri for found in place_of.runtime.engine.files("bob")] == [file["uri"]]
    with pytest.raises(FileMissing):
        place_of.content(file["uri"], "local")


async def test_two_contents_of_one_name_in_one_turn_are_two_versions(place_of: Place) -> None:
    paths = [place_of.file(f"{folder}/out.txt", folder.encode()) for folder in ("a", "b", "c")]

    result = await place_of.given_out([str(path) for path in paths], list[str])

    assert texts(result) == [uri_of(folder.encode(), "out.txt") for folder in ("a", "b", "c")]
    assert sorted(file["version"] for file in files_in(result)["stored"]) == [1, 2, 3]
    assert [place_of.content(uri) for uri in texts(result)] == [b"a", b"b", b"c"]


async def test_one_content_of_one_name_in_two_folders_is_one_file(place_of: Place) -> None:
    paths = [place_of.file(f"{folder}/out.txt", b"same") for folder in ("a", "b")]
    result = await place_of.given_out([str(path) for path in paths], list[str])
    assert texts(result) == [uri_of(b"same", "out.txt")] * 2
    assert len(files_in(result)["stored"]) == len(place_of.kept()) == 1


async def test_identical_bytes_are_stored_once_whatever_they_are_called(place_of: Place) -> None:
    writer = Writer(place_of)
    for conversation in ("first", "second"):
        for name in ("a.txt", "b.txt", "ä.txt", "c.bin"):
            file = await writer.write(name, "the same bytes", conversation)
            assert place_of.content(file["uri"]) == b"the same bytes"
    assert contents_in_store() == [b"the same bytes"]


async def test_identical_bytes_fit_into_a_store_that_is_full(place: Place) -> None:
    writer = Writer(place)
    await writer.write("a.txt", "x" * 1000)
    place.set(settings={"max_total_bytes": 1000})
    result = await place.given_out(str(place.file("b.txt", b"x" * 1000)))
    assert texts(result) == [uri_of(b"x" * 1000, "b.txt")]


async def test_nothing_is_left_lying_about_when_a_turn_is_over(place_of: Place) -> None:
    writer = Writer(place_of)
    for text in ("one", "one", "two"):
        await writer.write("a.txt", text)
    incoming = Path(os.environ["PERDURE_DATA_DIR"]) / "files" / "incoming"
    assert list(incoming.iterdir()) == []
    assert contents_in_store() == [b"one", b"two"]


async def test_versions_written_at_once_are_all_there_and_none_counts_twice(place_of: Place) -> None:
    writer = Writer(place_of)

    def write_apart(number: int) -> str:
        return str(place_of.file(f"{number}/a.txt", str(number).encode()))

    server = place_of.server(write_apart)
    async with Client(server) as client, anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(client.call_tool, "write_apart", {"number": number, "continuation_id": "c"})

    assert sorted(version for version, _ in writer.versions("a.txt")) == list(range(1, 13))
    assert {text for _, text in writer.versions("a.txt")} == {str(number) for number in range(12)}


async def test_stored_content_that_was_cut_short_is_made_whole_by_keeping_it_again(place: Place) -> None:
    writer = Writer(place)
    file = await writer.write("a.txt", "the whole content")
    (stored,) = (
        path for path in (Path(os.environ["PERDURE_DATA_DIR"]) / "files" / BUCKET).rglob("*") if path.is_file()
    )
    stored.write_bytes(b"the who")
    again = await writer.write("a.txt", "the whole content")
    assert again["uri"] == file["uri"]
    assert place.content(file["uri"]) == b"the whole content"
