"""A file that a tool gives out while the file store is away waits on the local disk, and can be read from there."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from away_file_store import AwayFileStore
from conftest import Activate
from mcp.server.mcpserver import MCPServer
from mcp_wire import called, text_of
from spool.conftest import MakeSpool
from spool.test_turns_that_wait import is_empty, until

from perdure import persisted
from perdure.errors import FileMissing, SpoolFull
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.wiring import Runtime
from perdure.settings import ToolSettings
from perdure.testing import FaultyStore

Json = dict[str, Any]

CONTENT = b"content of a report\n" * 1000
KEY = f"alice/{hashlib.sha256(CONTENT).hexdigest()}/report.txt"


@pytest.fixture
def file_store(tmp_path: Path) -> Iterator[AwayFileStore]:
    made = AwayFileStore(tmp_path / "kept")
    yield made
    made.goes_on.set()


def a_snapshot(tmp_path: Path) -> Path:
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(CONTENT)
    return snapshot


# ── the spool itself ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_waits_is_read_from_here_and_is_sent_when_the_file_store_is_back(
    make_spool: MakeSpool, file_store: AwayFileStore, tmp_path: Path
) -> None:
    file_store.away = True
    spool = make_spool(file_store=file_store)
    spool.keep_file(KEY, a_snapshot(tmp_path), media_type="text/plain")
    with spool.read_file(KEY) as waiting:
        assert waiting is not None
        assert waiting.read() == CONTENT
    [line] = spool.status()
    assert (line.files, line.file_bytes) == (1, len(CONTENT))
    file_store.away = False
    until(lambda: is_empty(spool), "not sent")
    with file_store.read(KEY) as kept:
        assert kept.read() == CONTENT
    with spool.read_file(KEY) as waiting:
        assert waiting is None
    assert list((spool.folder / "files").iterdir()) == []


def test_another_process_sends_the_files_that_the_first_one_kept(
    make_spool: MakeSpool, file_store: AwayFileStore, tmp_path: Path
) -> None:
    file_store.away = True
    first = make_spool(file_store=file_store)
    first.keep_file(KEY, a_snapshot(tmp_path), media_type="text/plain")
    first.close()
    file_store.away = False
    second = make_spool(file_store=file_store)
    second.wake()
    until(lambda: is_empty(second), "not sent")
    assert file_store.holds(KEY)


def test_content_that_was_sent_before_a_crash_could_say_so_is_not_missed(
    make_spool: MakeSpool, file_store: AwayFileStore, tmp_path: Path
) -> None:
    file_store.away = True
    spool = make_spool(file_store=file_store)
    spool.keep_file(KEY, a_snapshot(tmp_path), media_type="text/plain")
    [content] = (spool.folder / "files").iterdir()
    LocalFileStore(tmp_path / "kept", "mcp-files").put(KEY, content, media_type="text/plain")  # takes it away
    file_store.away = False
    until(lambda: is_empty(spool), "not dropped")
    assert spool.quarantine() == []


def test_content_that_is_gone_is_said_to_be_and_holds_up_nothing(
    make_spool: MakeSpool, file_store: AwayFileStore, tmp_path: Path
) -> None:
    file_store.away = True
    spool = make_spool(file_store=file_store)
    spool.keep_file(KEY, a_snapshot(tmp_path), media_type="text/plain")
    [content] = (spool.folder / "files").iterdir()
    content.unlink()
    file_store.away = False
    until(lambda: is_empty(spool), "it blocks")
    [found] = spool.quarantine()
    assert (found.kind, found.id) == ("file", KEY)
    assert "not there any more" in found.reason


def test_turns_do_not_wait_for_files(
    make_spool: MakeSpool, file_store: AwayFileStore, store: FaultyStore, tmp_path: Path
) -> None:
    from spool.conftest import an_answered_turn, prompts

    file_store.away = True
    spool = make_spool(file_store=file_store)
    spool.keep_file(KEY, a_snapshot(tmp_path), media_type="text/plain")
    spool.keep(an_answered_turn("hello"))
    until(lambda: prompts(store.inner) == ["hello"], "it waits for the file")


def test_files_count_towards_what_the_spool_may_hold(
    make_spool: MakeSpool, file_store: AwayFileStore, tmp_path: Path
) -> None:
    spool = make_spool(file_store=file_store, max_bytes=100_000)
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(b"x" * 100_001)
    with pytest.raises(SpoolFull):
        spool.keep_file(KEY, snapshot, media_type="text/plain")


# ── through a tool ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def away(activate: Activate, file_store: AwayFileStore, tmp_path: Path) -> Runtime:
    (tmp_path / "out").mkdir()
    store = FaultyStore(MemoryStore(), blocking=True)
    policy = ToolSettings(file_roots=(tmp_path / "out",), file_timeout=1.0)
    runtime = activate(store, spooled=True, file_store=file_store, data_dir=tmp_path / "data", defaults=policy)
    for breaker in (runtime.breaker, runtime.keeper.breaker):
        breaker._first_pause = breaker._pause = 0.01
        breaker._longest_pause = 0.02
    return runtime


@pytest.fixture
def server(tmp_path: Path) -> MCPServer:
    mcp = MCPServer("files")

    @mcp.tool()
    @persisted
    def make(prompt: str) -> str:
        path = tmp_path / "out" / "report.txt"
        path.write_bytes(CONTENT)
        return str(path)

    @mcp.tool()
    @persisted
    def size(path: str) -> str:
        return str(len(Path(path).read_bytes()))

    return mcp


def spool_of(runtime: Runtime) -> Spool:
    assert runtime.spool is not None
    return runtime.spool


async def test_a_file_given_out_while_the_file_store_is_away_works_as_an_argument_and_arrives_later(
    away: Runtime, server: MCPServer, file_store: AwayFileStore
) -> None:
    file_store.away = True
    result = await called(server, "make", {"prompt": "make it", "continuation_id": "c"})
    uri = text_of(result)
    assert uri.startswith("storage://mcp-files/local/")
    assert result["_meta"]["perdure/persisted"] is True
    assert result["_meta"]["perdure/fault"] == "store_unavailable"
    [stored] = result["_meta"]["perdure/files"]["stored"]
    assert stored["uri"] == uri
    assert text_of(await called(server, "size", {"path": uri})) == str(len(CONTENT))
    file_store.away = False
    until(lambda: is_empty(spool_of(away)), "not sent")
    assert text_of(await called(server, "size", {"path": uri})) == str(len(CONTENT))
    assert file_store.holds(uri.removeprefix("storage://mcp-files/"))


async def test_with_both_stores_away_the_file_is_found_by_the_turn_that_waits(
    away: Runtime, server: MCPServer, file_store: AwayFileStore
) -> None:
    store = away.engine.store
    assert isinstance(store, FaultyStore)
    file_store.away = True
    store.fail()
    result = await called(server, "make", {"prompt": "make it", "continuation_id": "c"})
    uri = text_of(result)
    assert (result["_meta"]["perdure/persisted"], result["_meta"]["perdure/deferred"]) == (True, True)
    [stored] = result["_meta"]["perdure/files"]["stored"]
    assert "version" not in stored
    assert text_of(await called(server, "size", {"path": uri})) == str(len(CONTENT))
    file_store.away = False
    store.heal()
    until(lambda: is_empty(spool_of(away)), "not sent")
    [file] = store.inner.files("local", "c")
    assert (file.uri, file.version) == (uri, 1)


async def test_a_file_store_that_hangs_keeps_no_file_from_being_kept(
    away: Runtime, server: MCPServer, file_store: AwayFileStore
) -> None:
    file_store.goes_on.clear()
    result = await called(server, "make", {"prompt": "make it", "continuation_id": "c"})
    uri = text_of(result)
    assert uri.startswith("storage://"), result
    assert result["_meta"]["perdure/fault"] == "store_timeout"
    file_store.goes_on.set()
    until(lambda: is_empty(spool_of(away)), "not sent")
    assert text_of(await called(server, "size", {"path": uri})) == str(len(CONTENT))


async def test_a_file_of_another_caller_that_waits_is_not_found(
    away: Runtime, server: MCPServer, file_store: AwayFileStore
) -> None:
    file_store.away = True
    uri = text_of(await called(server, "make", {"prompt": "make it"}))
    with pytest.raises(FileMissing):
        away.keeper.find("somebody else", uri)
    assert away.keeper.find("local", uri).name == "report.txt"
