"""In: a storage URI that stands as a whole argument reaches the tool's body as a local path to the same bytes."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import pytest
from files.conftest import BUCKET, Place, called, texts, uri_of
from mcp import Client
from mcp.server.mcpserver import MCPServer
from pydantic import AnyUrl, BaseModel, FilePath, FileUrl

from perdure import History, persisted
from perdure.middleware.persistence.history import current_conversation
from perdure.middleware.persistence.wiring import Runtime


class Body:
    """A tool's body that notes what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    @property
    def only(self) -> Any:
        (given,) = self.given
        return given


@pytest.fixture
def body() -> Body:
    return Body()


def stored(runtime: Runtime, uri: str) -> Path:
    """Where the local file store has the content of `uri`."""
    _, tenant, sha256, _ = uri.removeprefix("storage://").split("/")
    return Path(os.environ["PERDURE_DATA_DIR"]) / "files" / BUCKET / tenant / sha256


# ── where it stands ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_uri_becomes_a_local_path_to_the_same_bytes(seamed: Place, body: Body, mode: str) -> None:
    uri = await seamed.keep("a.txt", b"the bytes")
    (seamed.out / "a.txt").unlink()

    def read(path: str) -> str:
        body.given.append(path)
        return Path(path).read_text()

    result = await seamed.call(read, {"path": uri}, mode=mode)

    assert texts(result) == ["the bytes"]
    assert Path(body.only).is_absolute()
    assert Path(body.only).name == "a.txt"


async def test_uris_are_found_at_any_depth_and_all_else_is_as_it_was(seamed: Place, body: Body) -> None:
    one, two = await seamed.keep("one.txt", b"1"), await seamed.keep("two.txt", b"2")

    def read(data: dict[str, Any], more: list[Any]) -> str:
        body.given.append((data, more))
        return "done"

    def value(first: str, second: str) -> tuple[dict[str, Any], list[Any]]:
        deep: Any = first
        for _ in range(60):
            deep = {"deeper": [deep, None, 7]}
        return {"a": {"b": [first]}, "deep": deep, one: "names of members stay"}, [[second], "text", 1.5, None, True]

    data, more = value(one, two)
    await seamed.call(read, {"data": data, "more": more})

    given, rest = body.only
    paths = given["a"]["b"][0], rest[0][0]
    assert [Path(path).read_bytes() for path in paths] == [b"1", b"2"]
    assert (given, rest) == value(*paths)


async def test_a_model_and_a_parameter_of_type_path_are_given_what_they_declare(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("a.txt", b"the bytes")

    class Job(BaseModel):
        source: Path
        others: list[Path] = []

    def read(path: Path, job: Job, maybe: Path | None = None) -> str:
        body.given.append((path, job, maybe))
        return "done"

    await seamed.call(read, {"path": uri, "job": {"source": uri, "others": [uri]}, "maybe": uri})

    path, job, maybe = body.only
    assert isinstance(job, Job)
    assert {path, job.source, *job.others, maybe} == {path}
    assert isinstance(path, Path)
    assert path.read_bytes() == b"the bytes"


async def test_a_parameter_that_wants_an_existing_file_takes_a_uri(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("a.txt", b"the bytes")

    def read(path: FilePath) -> str:
        body.given.append(path)
        return path.read_text()

    assert texts(await seamed.call(read, {"path": uri})) == ["the bytes"]


@pytest.mark.parametrize("around", ['"{}"', ' "{}" ', "  {}\n", "{}"])
async def test_a_uri_as_models_copy_it_is_understood(place: Place, body: Body, around: str) -> None:
    uri = await place.keep("a.txt", b"the bytes")

    def read(path: str) -> str:
        return Path(path).read_text()

    assert texts(await place.call(read, {"path": around.format(uri)})) == ["the bytes"]


@pytest.mark.parametrize(
    "text",
    [
        "read {} please",
        "{} please read it",
        "{}, what is in it?",
        "{} {}",
        "{}\n{}",
        "see {}",
        '["{}"]',
        '{{"path": "{}"}}',
        "x{}",
        "({})",
    ],
)
async def test_a_uri_within_a_sentence_is_only_text(seamed: Place, body: Body, text: str) -> None:
    uri = await seamed.keep("a.txt")

    def echo(prompt: str) -> str:
        body.given.append(prompt)
        return "done"

    result = await seamed.call(echo, {"prompt": text.replace("{}", uri)})

    assert not result.get("isError"), texts(result)
    assert body.only == text.replace("{}", uri)


async def test_the_name_is_the_true_one_even_where_the_uri_has_a_safe_one(place: Place, body: Body) -> None:
    for name in ("Übersicht 1.txt", "back\\0zero.txt", "100%.txt", "new  spaces .tar.gz"):
        uri = await place.keep(name, name.encode())

        def read(path: str) -> str:
            body.given.append(path)
            return "done"

        await place.call(read, {"path": uri})
        assert Path(body.given[-1]).name == name
        assert Path(body.given[-1]).read_bytes() == name.encode()


async def test_a_bucket_may_have_any_name_that_the_settings_admit(place: Place) -> None:
    for bucket in ("mcp.files", "a.b-c_d", "00"):
        place.set(settings={"bucket": bucket})
        uri = await place.keep("a.txt", bucket.encode())

        def read(path: str) -> str:
            return Path(path).read_text()

        assert uri.startswith(f"storage://{bucket}/")
        assert texts(await place.call(read, {"path": uri})) == [bucket]


async def test_any_principal_that_the_settings_admit_has_its_files_back(place: Place) -> None:
    for user in ("me", "Ann Müller", "a/b", "../../x", "h-me", "_", "-", "x" * 200, "user@example.com", "."):
        place.set(settings={"user_id": user})
        uri = await place.keep("a.txt", user.encode())

        def read(path: str) -> str:
            return Path(path).read_text()

        assert texts(await place.call(read, {"path": uri})) == [user]


async def test_a_tool_may_give_out_the_copy_it_was_given(seamed: Place) -> None:
    uri = await seamed.keep("a.txt")

    def echo(path: str) -> str:
        return path

    assert texts(await seamed.call(echo, {"path": uri})) == [uri]


# ── where a URI is expected ──────────────────────────────────────────────────────────────────────────────────────


def local(uri: object) -> Path:
    parts = urlsplit(str(uri))
    assert parts.scheme == "file", uri
    return Path(unquote(parts.path))


async def test_an_argument_that_takes_a_uri_by_its_schema_is_given_a_file_uri(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("ä b.txt", b"the bytes")

    def read(source: AnyUrl, second: FileUrl | AnyUrl, others: list[AnyUrl], maybe: AnyUrl | None = None) -> str:
        body.given.append([source, second, *others, maybe])
        return "done"

    result = await seamed.call(read, {"source": uri, "second": uri, "others": [uri], "maybe": uri})

    assert texts(result) == ["done"]
    assert {local(value).read_bytes() for value in body.only} == {b"the bytes"}


async def test_a_member_that_takes_a_uri_by_its_schema_is_given_a_file_uri_at_any_depth(
    seamed: Place, body: Body
) -> None:
    uri = await seamed.keep("a.txt", b"the bytes")

    class Inner(BaseModel):
        source: AnyUrl
        copy_to: Path

    class Job(BaseModel):
        inner: list[Inner]

    def read(job: Job) -> str:
        body.given.append(job)
        return "done"

    result = await seamed.call(read, {"job": {"inner": [{"source": uri, "copy_to": uri}]}})

    assert texts(result) == ["done"]
    inner = body.only.inner[0]
    assert local(inner.source).read_bytes() == b"the bytes"
    assert inner.copy_to.read_bytes() == b"the bytes"


@pytest.mark.parametrize("name", ["uri", "url", "image_url", "imageUrl", "image-uri", "urls", "fileURI", "source_uris"])
async def test_an_argument_that_is_called_uri_is_given_a_file_uri(place: Place, body: Body, name: str) -> None:
    uri = await place.keep("a.txt", b"the bytes")
    server = MCPServer("uris")
    namespace: dict[str, Any] = {"note": body.given.append}
    argument = name.replace("-", "_")
    exec(f"def read({argument}: str) -> str:\n    note({argument})\n    return 'done'", namespace)
    server.tool()(persisted(namespace["read"]))
    await called(server, "read", {argument: uri})
    assert local(body.only).read_bytes() == b"the bytes"


@pytest.mark.parametrize("name", ["path", "curl", "purify", "security", "file", "uri_file", "urlpath"])
async def test_an_argument_that_is_only_spelt_like_one_is_given_a_path(place: Place, body: Body, name: str) -> None:
    uri = await place.keep("a.txt", b"the bytes")
    server = MCPServer("uris")
    namespace: dict[str, Any] = {"note": body.given.append}
    exec(f"def read({name}: str) -> str:\n    note({name})\n    return 'done'", namespace)
    server.tool()(persisted(namespace["read"]))
    await called(server, "read", {name: uri})
    assert Path(body.only).read_bytes() == b"the bytes"


# ── what is recorded ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_recorded_arguments_keep_the_uri(seamed: Place) -> None:
    uri = await seamed.keep("a.txt")

    def read(prompt: str, more: dict[str, Any]) -> str:
        return "done"

    result = await seamed.call(read, {"prompt": uri, "more": {"deep": [uri]}})

    (turn,) = seamed.runtime.engine.turns("local", result["_meta"]["perdure/continuation-id"])
    assert turn.arguments == {"prompt": uri, "more": {"deep": [uri]}}
    assert turn.prompt == uri
    assert str(Path(os.environ["PERDURE_DATA_DIR"])) not in json.dumps([turn.arguments, turn.prompt])


async def test_a_uri_in_the_history_is_never_brought_back(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("a.txt")
    stored(seamed.runtime, uri).unlink()  # it would fail if it were tried

    def chat(prompt: str) -> str:
        body.given.append(prompt)
        return "the same to you"

    server = seamed.server(chat)
    first = await called(server, "chat", {"prompt": f"look at {uri}", "continuation_id": "c"})
    again = await called(server, "chat", {"prompt": "and now?", "continuation_id": "c"})

    assert not first.get("isError")
    assert not again.get("isError")
    assert uri in body.given[1]
    assert again["_meta"]["perdure/history"]["turns"] == 1
    assert not (Path(os.environ["PERDURE_DATA_DIR"]) / "files" / "cache").exists()


async def test_a_prompt_that_is_a_uri_alone_follows_the_history_as_a_path(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("a.txt", b"the bytes")

    def chat(prompt: str) -> str:
        body.given.append(prompt)
        return "done"

    server = seamed.server(chat)
    await called(server, "chat", {"prompt": uri, "continuation_id": "c"})
    await called(server, "chat", {"prompt": uri, "continuation_id": "c"})

    transcript, _, path = body.given[1].rpartition("\n\n")
    assert Path(path).read_bytes() == b"the bytes"
    assert uri in transcript  # as it was sent


async def test_a_history_parameter_is_filled_beside_a_file(place: Place, body: Body) -> None:
    uri = await place.keep("a.txt", b"the bytes")
    server = MCPServer("history")

    @server.tool()
    @persisted
    def read(path: str, history: History) -> str:
        body.given.append((Path(path).read_text(), len(history), current_conversation() is not None))
        return "done"

    await called(server, "read", {"path": uri, "continuation_id": "c"})
    await called(server, "read", {"path": uri, "continuation_id": "c"})
    assert body.given == [("the bytes", 0, True), ("the bytes", 1, True)]


async def test_a_tool_whose_files_are_switched_off_gets_the_uri(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("a.txt")
    seamed.set(files=False)

    def read(path: str) -> str:
        body.given.append(path)
        return "done"

    await seamed.call(read, {"path": uri})
    assert body.only == uri


# ── what is not there ────────────────────────────────────────────────────────────────────────────────────────────

HASH = "0" * 64

NOT_THERE = {
    "never kept": f"storage://{BUCKET}/local/{HASH}/a.txt",
    "another's": f"storage://{BUCKET}/bob/{HASH}/a.txt",
    "another bucket": f"storage://elsewhere/local/{HASH}/a.txt",
    "no key": f"storage://{BUCKET}/x",
    "nothing but a bucket": f"storage://{BUCKET}/",
    "dots": f"storage://{BUCKET}/local/../../../etc/passwd",
    "encoded dots": f"storage://{BUCKET}/local/%2e%2e/%2e%2e/etc/passwd",
    "twice encoded dots": f"storage://{BUCKET}/local/%252e%252e/etc/passwd",
    "backslashes": f"storage://{BUCKET}/local\\..\\..\\etc\\passwd",
    "upwards": f"storage://{BUCKET}/../../etc/passwd",
    "another name": f"storage://{BUCKET}/local/{HASH}/b.txt",
    "a query": f"storage://{BUCKET}/local/{HASH}/a.txt?x=1",
    "too long": f"storage://{BUCKET}/local/{HASH}/{'a' * 2000}",
}


@pytest.mark.parametrize("what", NOT_THERE)
async def test_what_is_not_there_is_an_error_that_names_the_uri_and_the_body_does_not_run(
    seamed: Place, body: Body, what: str
) -> None:
    await seamed.keep("a.txt")
    uri = NOT_THERE[what]

    def read(path: str) -> str:
        body.given.append(path)
        return "done"

    result = await seamed.call(read, {"path": uri})

    assert result["isError"] is True
    assert uri[:100] in texts(result)[0]
    assert body.given == []
    (turn,) = [
        turn
        for line in seamed.runtime.engine.conversations()
        for turn in seamed.runtime.engine.turns("local", line.continuation_id)
        if turn.tool == "read"
    ]
    assert turn.outcome == "failed"
    assert turn.arguments == {"path": uri}


async def test_a_file_of_another_is_as_missing_as_one_that_never_was(seamed: Place, body: Body) -> None:
    seamed.set(settings={"user_id": "bob"})
    foreign = await seamed.keep("a.txt", b"bob's")
    seamed.set(settings={"user_id": "alice"})
    unknown = uri_of(b"never kept", "a.txt", tenant="bob")

    def read(path: str) -> str:
        body.given.append(path)
        return "done"

    answers = [texts(await seamed.call(read, {"path": uri}))[0].replace(uri, "URI") for uri in (foreign, unknown)]

    assert answers[0] == answers[1]
    assert body.given == []


async def test_content_that_is_gone_from_the_store_is_an_error_that_names_the_uri(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("a.txt")
    stored(seamed.runtime, uri).unlink()

    def read(path: str) -> str:
        body.given.append(path)
        return "done"

    result = await seamed.call(read, {"path": uri})
    assert result["isError"] is True
    assert uri in texts(result)[0]
    assert body.given == []


@pytest.mark.parametrize("other", [b"altered", b"content and more", b"c", b""])
async def test_content_that_was_altered_in_the_store_is_not_given_to_the_tool(
    seamed: Place, body: Body, other: bytes
) -> None:
    uri = await seamed.keep("a.txt", b"content")
    stored(seamed.runtime, uri).write_bytes(other)

    def read(path: str) -> str:
        body.given.append(path)
        return "done"

    result = await seamed.call(read, {"path": uri})

    assert result["isError"] is True
    assert uri in texts(result)[0]
    assert "is not what was kept" in texts(result)[0]
    assert body.given == []
    cache = Path(os.environ["PERDURE_DATA_DIR"]) / "files" / "cache"
    assert [path for path in cache.rglob("*") if path.is_file()] == []


async def test_a_file_store_that_cannot_read_is_said_without_telling_where_it_is(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("a.txt")
    content = stored(seamed.runtime, uri)
    content.unlink()
    content.mkdir()  # reading it fails as a broken disk does

    def read(path: str) -> str:
        body.given.append(path)
        return "done"

    result = await seamed.call(read, {"path": uri})
    assert result["isError"] is True
    assert uri in texts(result)[0]
    assert os.environ["PERDURE_DATA_DIR"] not in texts(result)[0]
    assert body.given == []


async def test_a_file_larger_than_the_limit_of_today_is_not_brought_back(seamed: Place, body: Body) -> None:
    uri = await seamed.keep("a.txt", b"x" * 1000)
    seamed.set(max_file_bytes=999)

    def read(path: str) -> str:
        body.given.append(path)
        return "done"

    result = await seamed.call(read, {"path": uri})
    assert result["isError"] is True
    assert uri in texts(result)[0]
    assert "max_file_bytes" in texts(result)[0]
    assert body.given == []


async def test_one_missing_file_among_others_keeps_the_body_from_running(seamed: Place, body: Body) -> None:
    good, missing = await seamed.keep("a.txt"), f"storage://{BUCKET}/local/{HASH}/a.txt"

    def read(paths: list[str]) -> str:
        body.given.append(paths)
        return "done"

    result = await seamed.call(read, {"paths": [good, missing]})
    assert result["isError"] is True
    assert missing in texts(result)[0]
    assert body.given == []


# ── what a tool does to its copy ─────────────────────────────────────────────────────────────────────────────────


def alter(path: Path) -> None:
    path.write_bytes(b"poison!")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" and poison")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


def delete_its_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def delete_the_cache(path: Path) -> None:
    shutil.rmtree(path.parent.parent)


def make_it_a_folder(path: Path) -> None:
    path.unlink()
    (path / "full").mkdir(parents=True)


def make_it_a_link(path: Path) -> None:
    elsewhere = path.parent / "elsewhere"
    elsewhere.write_bytes(b"content")
    path.unlink()
    path.symlink_to(elsewhere)


def make_it_a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def make_it_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_its_folder_a_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"a file")


def make_it_unreadable(path: Path) -> None:
    path.chmod(0)


def move_it_away(path: Path) -> None:
    path.rename(path.with_name("moved"))


def set_its_time_back(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"poison!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "harm",
    [
        alter,
        append,
        empty,
        delete,
        delete_its_folder,
        delete_the_cache,
        make_it_a_folder,
        make_it_a_link,
        make_it_a_dangling_link,
        make_it_a_fifo,
        make_its_folder_a_file,
        make_it_unreadable,
        move_it_away,
        set_its_time_back,
    ],
)
async def test_what_a_tool_does_to_its_copy_does_not_reach_the_next_call(place: Place, harm: Any) -> None:
    place.set(file_timeout=5)
    uri = await place.keep("a.txt", b"content")

    def spoil(path: str) -> str:
        harm(Path(path))
        return "spoilt"

    def read(path: str) -> str:
        status = os.lstat(path)
        return Path(path).read_text() if stat.S_ISREG(status.st_mode) else f"no regular file: {status.st_mode:o}"

    assert texts(await place.call(spoil, {"path": uri})) == ["spoilt"]
    assert texts(await place.call(read, {"path": uri})) == ["content"]
    assert place.content(uri) == b"content"


async def test_a_tool_that_links_its_copy_to_a_secret_does_not_have_it_read(place: Place) -> None:
    """Not even to compare it: the copy is looked at without following links."""
    secret = place.file("secret.txt", b"content", folder=place.outside)  # the very same content
    uri = await place.keep("a.txt", b"content")

    def spoil(path: str) -> str:
        Path(path).unlink()
        Path(path).symlink_to(secret)
        return "spoilt"

    def read(path: str) -> str:
        return str(Path(path).is_symlink())

    await place.call(spoil, {"path": uri})
    assert texts(await place.call(read, {"path": uri})) == ["False"]


async def test_a_tool_that_alters_its_copy_does_not_alter_that_of_a_call_under_way(place: Place) -> None:
    uri = await place.keep("a.txt", b"content")
    has_path, was_altered = anyio.Event(), anyio.Event()
    server = MCPServer("two")

    @server.tool()
    @persisted
    async def read(path: str) -> str:
        has_path.set()
        await was_altered.wait()
        return Path(path).read_text()

    @server.tool()
    @persisted
    async def spoil(path: str) -> str:
        with Path(path).open("r+b") as file:
            file.write(b"poison!")
        was_altered.set()
        return "spoilt"

    async with Client(server) as client, anyio.create_task_group() as group:
        found: list[str] = []

        async def call_read() -> None:
            result = await client.call_tool("read", {"path": uri})
            found.append(result.content[0].text)

        group.start_soon(call_read)
        await has_path.wait()
        await client.call_tool("spoil", {"path": uri})

    assert found == ["content"]


async def test_the_copies_are_for_nobody_else_on_the_machine(place: Place, body: Body) -> None:
    uri = await place.keep("a.txt")

    def read(path: str) -> str:
        body.given.append(path)
        return "done"

    await place.call(read, {"path": uri})
    folders = [
        stat.S_IMODE(path.stat().st_mode) for path in (Path(body.only).parent, stored(place.runtime, uri).parent)
    ]
    assert [f"{mode:o}" for mode in folders] == ["700", "700"]


async def test_a_second_call_finds_the_copy_that_is_there_already(place: Place, body: Body) -> None:
    uri = await place.keep("a.txt", b"content")

    def read(path: str) -> str:
        body.given.append(Path(path).read_bytes())
        return "done"

    for _ in range(3):
        await place.call(read, {"path": uri})
    assert body.given == [b"content"] * 3
    cache = Path(os.environ["PERDURE_DATA_DIR"]) / "files" / "cache"
    assert len([path for path in cache.rglob("*") if path.is_file()]) <= 1
