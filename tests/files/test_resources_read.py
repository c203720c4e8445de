"""`resources/read` of a storage URI, on a server that perdure is installed on: the caller's own files alone."""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from files.conftest import BUCKET, Place, uri_of
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

from perdure import install, persisted

Json = dict[str, Any]

both_eras = pytest.mark.parametrize("mode", ["auto", "legacy"])


@pytest.fixture
def server() -> MCPServer:
    made = MCPServer("resources")

    @made.resource("note://{name}")
    def note(name: str) -> str:
        return f"the server's own note {name}"

    install(made)
    return made


async def read(server: MCPServer, uri: str, mode: str = "auto") -> Json:
    async with Client(server, mode=mode) as client:
        result = await client.read_resource(uri)
        (contents,) = result.contents
        return contents.model_dump(by_alias=True, mode="json", exclude_none=True)


async def refused(server: MCPServer, uri: str, mode: str = "auto") -> MCPError:
    async with Client(server, mode=mode) as client:
        with pytest.raises(MCPError) as raised:
            await client.read_resource(uri)
    return raised.value


@both_eras
async def test_a_text_file_is_read_as_text_with_its_media_type(place: Place, server: MCPServer, mode: str) -> None:
    uri = await place.keep("table.csv", "a,b\nÜ,2\n".encode())
    assert await read(server, uri, mode) == {"uri": uri, "mimeType": "text/csv", "text": "a,b\nÜ,2\n"}


@both_eras
async def test_a_binary_file_is_read_as_a_blob_with_its_media_type(place: Place, server: MCPServer, mode: str) -> None:
    content = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    uri = await place.keep("chart.png", content)
    found = await read(server, uri, mode)
    assert base64.b64decode(found.pop("blob")) == content
    assert found == {"uri": uri, "mimeType": "image/png"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'{"a": 1}'),
        ("a.txt", b""),
        ("a.txt", b"\r\n \xe2\x80\xa8 \t"),
        ("sales.txt", b"BMW sales report"),
        ("a.xml", b'<?xml version="1.0"?><a/>'),
    ],
)
async def test_what_is_text_is_read_as_text(place: Place, server: MCPServer, name: str, content: bytes) -> None:
    assert (await read(server, await place.keep(name, content)))["text"].encode() == content


@pytest.mark.parametrize("content", [b"\xff\xfeh\0i\0", b"a\0b", b"caf\xe9", b"x" * 5000 + b"\xff\n"])
async def test_no_byte_is_lost_of_what_only_looks_like_text(place: Place, server: MCPServer, content: bytes) -> None:
    found = await read(server, await place.keep("a.txt", content))
    got = base64.b64decode(found["blob"]) if "blob" in found else found["text"].encode()
    assert got == content


@both_eras
async def test_a_file_that_never_was_is_not_found(place: Place, server: MCPServer, mode: str) -> None:
    uri = uri_of(b"never kept", "a.txt")
    error = await refused(server, uri, mode)
    assert (error.error.code, error.error.data) == (-32602, {"uri": uri})
    assert uri in error.error.message


@both_eras
async def test_a_file_of_another_user_is_not_found_in_the_very_same_words(
    place: Place, server: MCPServer, mode: str
) -> None:
    place.set(settings={"user_id": "bob"})
    foreign = await place.keep("a.txt", b"bob's secret")
    place.set(settings={"user_id": "alice"})
    unknown = uri_of(b"never kept", "a.txt", tenant="bob")

    errors = [await refused(server, uri, mode) for uri in (foreign, unknown)]

    words = [error.error.message.replace(uri, "URI") for error, uri in zip(errors, (foreign, unknown), strict=True)]
    assert words[0] == words[1]
    assert errors[0].error.code == errors[1].error.code
    place.set(settings={"user_id": "bob"})
    assert (await read(server, foreign, mode))["text"] == "bob's secret"


async def test_the_same_content_kept_by_two_users_is_each_ones_own(place: Place, server: MCPServer) -> None:
    uris = {}
    for user in ("alice", "bob"):
        place.set(settings={"user_id": user})
        uris[user] = await place.keep("a.txt", b"the same")
    assert uris["alice"] != uris["bob"]
    assert (await read(server, uris["bob"]))["text"] == "the same"
    await refused(server, uris["alice"])


@pytest.mark.parametrize(
    "change",
    [
        lambda uri: uri.replace("/local/", "/local/../local/"),
        lambda uri: uri.replace("/local/", "/%6cocal/"),
        lambda uri: uri.replace("/local/", "//local/"),
        lambda uri: uri.replace("/local/", "/LOCAL/"),
        lambda uri: uri.replace("a.txt", "b.txt"),
        lambda uri: uri.replace("a.txt", "a.txt/.."),
        lambda uri: uri.replace("a.txt", "..\\a.txt"),
        lambda uri: uri + "?x",
        lambda uri: uri + "%00",
        lambda uri: uri.replace(f"{BUCKET}/", f"{BUCKET}/../../"),
        lambda uri: f"storage://{BUCKET}/local/../../../../../../etc/passwd",
        lambda uri: f"storage://{BUCKET}/local/%2e%2e/%2e%2e/etc/passwd",
        lambda uri: f"storage://{BUCKET}/local/%252e%252e/etc/passwd",
        lambda uri: f"storage://{BUCKET}/",
    ],
)
async def test_only_the_very_uri_that_was_given_out_is_read(
    place: Place, server: MCPServer, change: Callable[[str], str]
) -> None:
    uri = await place.keep("a.txt")
    await refused(server, change(uri))


@both_eras
async def test_a_file_over_the_cap_is_not_sent_and_it_is_said_why(place: Place, server: MCPServer, mode: str) -> None:
    uris = [await place.keep(name, name.encode() * size) for name, size in (("a", 1000), ("b", 1001))]
    place.set(settings={"max_resource_bytes": 1000})
    assert (await read(server, uris[0], mode))["text"] == "a" * 1000
    error = await refused(server, uris[1], mode)
    assert "max_resource_bytes" in error.error.message
    assert uris[1] in error.error.message


async def test_the_cap_is_10_mb_unless_set(place: Place, server: MCPServer) -> None:
    uri = await place.keep("a.bin", bytes(10_000_001))
    assert "max_resource_bytes" in (await refused(server, uri)).error.message


@pytest.mark.parametrize("other", [b"altered", b"content and more", b"", None])
async def test_content_that_is_gone_or_altered_in_the_store_is_not_sent(
    place: Place, server: MCPServer, other: bytes | None
) -> None:
    uri = await place.keep("a.txt", b"content")
    data = Path(os.environ["PERDURE_DATA_DIR"])
    (stored,) = (path for path in (data / "files" / BUCKET).rglob("*") if path.is_file())
    stored.unlink() if other is None else stored.write_bytes(other)
    error = await refused(server, uri)
    assert uri in error.error.message
    assert str(data) not in error.error.message


async def test_where_the_store_is_is_not_told_when_it_cannot_be_read(place: Place, server: MCPServer) -> None:
    uri = await place.keep("a.txt", b"content")
    data = Path(os.environ["PERDURE_DATA_DIR"])
    (stored,) = (path for path in (data / "files" / BUCKET).rglob("*") if path.is_file())
    stored.unlink()
    stored.mkdir()
    assert str(data) not in (await refused(server, uri)).error.message


@both_eras
async def test_the_servers_own_resources_are_as_before(place: Place, server: MCPServer, mode: str) -> None:
    async with Client(server, mode=mode) as client:
        result = await client.read_resource("note://one")
        assert result.contents[0].text == "the server's own note one"
        with pytest.raises(MCPError) as ours:
            await client.read_resource("other://x")
    bare = MCPServer("bare")
    async with Client(bare, mode=mode) as client:
        with pytest.raises(MCPError) as theirs:
            await client.read_resource("other://x")
    assert ours.value.error == theirs.value.error


async def test_a_server_with_storage_uris_of_its_own_still_answers_for_them(place: Place) -> None:
    server = MCPServer("own")

    @server.resource("storage://archive/{name}")
    def archived(name: str) -> str:
        return f"archived {name}"

    install(server)
    assert (await read(server, "storage://archive/x"))["text"] == "archived x"


@both_eras
async def test_a_server_that_only_has_decorated_tools_answers_for_resources_as_if_perdure_were_not_there(
    place: Place, mode: str
) -> None:
    uri = await place.keep("a.txt")
    decorated, bare = MCPServer("same"), MCPServer("same")
    decorated.tool()(persisted(chat))
    bare.tool()(chat)
    errors = [await refused(server, uri, mode) for server in (decorated, bare)]
    assert errors[0].error == errors[1].error


async def test_with_perdure_switched_off_the_server_answers_as_if_it_were_not_there(
    place: Place, server: MCPServer
) -> None:
    uri = await place.keep("a.txt")
    place.set(settings={"enabled": False})
    assert (await refused(server, uri)).error == (await refused(MCPServer("bare"), uri)).error


def chat(prompt: str) -> str:
    return prompt
