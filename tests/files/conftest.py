"""Folders for one test: a root that is allowed, a temp directory, what lies outside of both; and tools over them."""

import functools
import hashlib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from files.keeper_bench import Bench
from mcp import Client
from mcp.server.mcpserver import MCPServer

from perdure import install, persisted
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import StoredFile
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import Settings, ToolSettings

Json = dict[str, Any]

SEAMS = ("decorator-sync", "decorator-async", "hook-sync", "hook-async")

BUCKET = "mcp-files"


class Place:
    """`out` is a root that the settings allow, `temp` the temp directory, `outside` neither."""

    def __init__(self, folder: Path, until_the_end: ExitStack) -> None:
        self.out = folder / "out"
        self.temp = folder / "temp"
        self.outside = folder / "outside"
        for made in (self.out, self.temp, self.outside):
            made.mkdir()
        self.store: Store = MemoryStore()
        self.file_store: FileStore | None = None
        self.seam = SEAMS[0]
        self._until_the_end = until_the_end
        self.set()

    @property
    def runtime(self) -> Runtime:
        return wiring.runtime()

    def set(self, *, settings: Json | None = None, **policy: Any) -> Runtime:
        """What an operator sets, from now on; as after a restart of the server, with the same store."""
        policy = {"file_roots": (self.out,), **policy}
        made = wiring.build(
            Settings(**(settings or {}), defaults=ToolSettings(**policy)), store=self.store, file_store=self.file_store
        )
        return self._until_the_end.enter_context(wiring.activated(made))

    def file(self, name: str, content: bytes = b"content", *, folder: Path | None = None) -> Path:
        path = (folder or self.out) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def server(self, *tools: Callable[..., Any], seam: str | None = None) -> MCPServer:
        """A server of synchronous functions: as they are or asynchronous, decorated or behind the hook."""
        kind, _, nature = (seam or self.seam).partition("-")
        server = MCPServer("files")
        for tool in tools:
            served = _asynchronous(tool) if nature == "async" and not inspect.iscoroutinefunction(tool) else tool
            server.tool()(persisted(served) if kind == "decorator" else served)
        if kind == "hook":
            install(server, tools=[tool.__name__ for tool in tools])
        return server

    async def call(self, tool: Callable[..., Any], arguments: Json | None = None, **options: Any) -> Json:
        """The result, on the wire, of one call of a server that has this tool alone."""
        return await called(self.server(tool), tool.__name__, arguments, **options)

    async def given_out(self, value: Any, annotation: Any = str, **options: Any) -> Json:
        """The result of a tool that returns `value`."""

        def give() -> Any:
            return value

        give.__annotations__["return"] = annotation
        return await self.call(give, **options)

    async def keep(self, name: str, content: bytes = b"content", **options: Any) -> str:
        """Have a tool give out a file; the URI that its client got."""
        result = await self.given_out(str(self.file(name, content)), **options)
        uri: str = result["content"][0]["text"]
        assert uri.startswith("storage://"), result
        return uri

    def content(self, uri: str, principal: str = "local") -> bytes:
        """What the keeper has under `uri`."""
        return self.runtime.keeper.content(principal, uri, max_bytes=1 << 30)[0]

    def kept(self, name: str | None = None) -> list[StoredFile]:
        """All files of the local user, newest first."""
        return self.runtime.engine.files("local", None, name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with ExitStack() as until_the_end:
        made = Place(tmp_path, until_the_end)
        monkeypatch.setattr(tempfile, "tempdir", str(made.temp))
        made.set()
        yield made


@pytest.fixture(params=SEAMS)
def seamed(place: Place, request: pytest.FixtureRequest) -> Place:
    """`place` with each seam and each nature of a tool in turn."""
    place.seam = request.param
    return place


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def spooled(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, spooled=True)
    yield made
    assert made.spool is not None
    made.spool.close()


async def called(
    server: MCPServer, tool: str, arguments: Json | None = None, *, mode: str = "auto", meta: Any = None, **options: Any
) -> Json:
    async with Client(server, mode=mode) as client:
        await client.list_tools()  # so that the client holds the result against the tool's output schema
        result = await client.call_tool(tool, arguments, meta=meta, **options)
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)


def texts(result: Json) -> list[str]:
    """The tool's own text blocks."""
    return [
        block["text"]
        for block in result["content"]
        if block["type"] == "text" and not block["text"].startswith("[continuation_id: ")
    ]


def files_in(result: Json) -> Json:
    """What the result says of files."""
    said: Json = result["_meta"]["perdure/files"]
    return said


def left_in(result: Json) -> Json:
    """The one path that was left alone."""
    (left,) = files_in(result)["left"]
    return left


def uri_of(content: bytes, name: str, tenant: str = "local") -> str:
    return f"storage://{BUCKET}/{tenant}/{hashlib.sha256(content).hexdigest()}/{name}"


def _asynchronous(tool: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(tool)
    async def run(*args: Any, **kwargs: Any) -> Any:
        return tool(*args, **kwargs)

    return run
