"""Over a limit: the path stays as it was, `_meta` says why and which setting it was, and the turn is recorded."""

import errno
import io
import os
import threading
import time
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from files.conftest import BUCKET, Json, Place, files_in, left_in, texts, uri_of

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.files import keeper, snapshot
from perdure.middleware.persistence.files.allowed_roots import AllowedRoots
from perdure.middleware.persistence.files.keeper import FileKeeper, FileLimits
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import FinishedTurn, Turn

WIDE = FileLimits(max_file_bytes=10**9, max_turn_files=1000, max_turn_bytes=10**9, max_total_bytes=10**9, seconds=60)


def is_recorded(place: Place, result: Json) -> bool:
    """Whether the turn is there, answered, and as the client has it."""
    meta = result["_meta"]
    (turn,) = place.runtime.engine.turns("local", meta["perdure/continuation-id"])
    own = [block["text"] for block in turn.answer.result["content"]] if turn.answer else []
    return bool(meta["perdure/persisted"]) and turn.outcome == "answered" and own == texts(result)


def incoming() -> list[Path]:
    folder = Path(os.environ["PERDURE_DATA_DIR"]) / "files" / "incoming"
    return list(folder.iterdir()) if folder.exists() else []


# ── one file ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_over_the_size_limit_stays_where_it_is(seamed: Place) -> None:
    seamed.set(max_file_bytes=1000)
    path = seamed.file("a.bin", b"x" * 1001)

    result = await seamed.given_out(str(path))

    assert texts(result) == [str(path)]
    left = left_in(result)
    assert (left["path"], left["setting"]) == (str(path), "max_file_bytes")
    assert "1,001" in left["reason"]
    assert "1,000" in left["reason"]
    assert is_recorded(seamed, result)
    assert seamed.kept() == incoming() == []


async def test_a_file_of_exactly_the_size_limit_is_kept(place: Place) -> None:
    place.set(max_file_bytes=1000)
    assert texts(await place.given_out(str(place.file("a.bin", b"x" * 1000)))) == [uri_of(b"x" * 1000, "a.bin")]


async def test_the_limit_of_one_file_is_50_mb_unless_set(place: Place) -> None:
    path = place.file("a.bin")
    os.truncate(path, 50_000_001)
    assert left_in(await place.given_out(str(path)))["setting"] == "max_file_bytes"


async def test_a_limit_of_nothing_keeps_only_what_is_empty(place: Place) -> None:
    place.set(max_file_bytes=0)
    empty, full = place.file("empty", b""), place.file("full", b"x")
    assert texts(await place.given_out([str(empty), str(full)], list[str])) == [uri_of(b"", "empty"), str(full)]


# ── one turn ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_files_beyond_the_number_for_one_turn_stay(seamed: Place) -> None:
    seamed.set(max_turn_files=2)
    paths = [str(seamed.file(f"{number}", str(number).encode())) for number in range(4)]

    result = await seamed.given_out(paths, list[str])

    assert texts(result) == [uri_of(b"0", "0"), uri_of(b"1", "1"), paths[2], paths[3]]
    assert [(left["path"], left["setting"]) for left in files_in(result)["left"]] == [
        (paths[2], "max_turn_files"),
        (paths[3], "max_turn_files"),
    ]
    assert is_recorded(seamed, result)
    assert len(seamed.kept()) == 2


async def test_one_file_named_many_times_is_one_file_to_the_limit(place: Place) -> None:
    place.set(max_turn_files=1)
    path = place.file("a")
    for uri in texts(await place.given_out([str(path), path.as_uri(), str(path)], list[str])):
        assert uri == uri_of(b"content", "a")


async def test_bytes_beyond_those_for_one_turn_stay_and_smaller_files_still_fit(seamed: Place) -> None:
    seamed.set(max_turn_bytes=100)
    paths = [str(seamed.file(name, name.encode() * size)) for name, size in (("a", 60), ("b", 41), ("c", 40), ("d", 1))]

    result = await seamed.given_out(paths, list[str])

    assert texts(result) == [uri_of(b"a" * 60, "a"), paths[1], uri_of(b"c" * 40, "c"), paths[3]]
    assert {left["setting"] for left in files_in(result)["left"]} == {"max_turn_bytes"}
    assert is_recorded(seamed, result)


async def test_the_next_turn_has_its_own_limits(place: Place) -> None:
    place.set(max_turn_files=1, max_turn_bytes=7)
    for number in range(3):
        content = f"{number} turn".encode()
        assert texts(await place.given_out(str(place.file("a", content)))) == [uri_of(content, "a")]


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_does_not_fit_into_the_quota_stays(seamed: Place) -> None:
    seamed.set(settings={"max_total_bytes": 100})
    first, second = seamed.file("a", b"a" * 60), seamed.file("b", b"b" * 60)

    assert texts(await seamed.given_out(str(first))) == [uri_of(b"a" * 60, "a")]
    result = await seamed.given_out(str(second))

    assert texts(result) == [str(second)]
    assert left_in(result)["setting"] == "max_total_bytes"
    assert is_recorded(seamed, result)


async def test_the_quota_counts_what_was_there_before_this_process(place: Place) -> None:
    place.set(settings={"max_total_bytes": 100})
    await place.given_out(str(place.file("a", b"a" * 60)))
    place.set(settings={"max_total_bytes": 100})  # as after a restart
    assert left_in(await place.given_out(str(place.file("b", b"b" * 60))))["setting"] == "max_total_bytes"


async def test_the_quota_counts_within_one_turn_too(place: Place) -> None:
    place.set(settings={"max_total_bytes": 100})
    paths = [str(place.file(name, name.encode() * 60)) for name in ("a", "b")]
    assert texts(await place.given_out(paths, list[str])) == [uri_of(b"a" * 60, "a"), paths[1]]


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_for_which_no_time_is_left_stays(seamed: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """To perdure time stands still, but for each reading of a piece, which takes twenty seconds."""
    now = [0.0]

    def slow_read(descriptor: int, size: int) -> bytes:
        now[0] += 20  # twice for a file of one piece: the second time it is at its end
        return os.read(descriptor, size)

    clock = SimpleNamespace(**vars(time) | {"monotonic": lambda: now[0]})
    monkeypatch.setattr(snapshot, "time", clock)
    monkeypatch.setattr(keeper, "time", clock)
    monkeypatch.setattr(snapshot, "os", SimpleNamespace(**vars(os) | {"read": slow_read}))
    paths = [str(seamed.file(name, name.encode() * 5000)) for name in ("a", "b")]

    result = await seamed.given_out(paths, list[str])
    assert texts(result) == [uri_of(b"a" * 5000, "a"), uri_of(b"b" * 5000, "b")]

    seamed.set(file_timeout=50)
    result = await seamed.given_out(paths, list[str])
    assert texts(result) == [uri_of(b"a" * 5000, "a"), paths[1]]
    left = left_in(result)
    assert (left["path"], left["setting"]) == (paths[1], "file_timeout")
    assert "time" in left["reason"]
    assert is_recorded(seamed, result)
    assert incoming() == []


# ── a file that grows past a limit ───────────────────────────────────────────────────────────────────────────────


class Keeping:
    """One file, kept by itself, with something that happens to it when its first piece has been read."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.store = LocalFileStore(folder / "files", BUCKET)
        self.keeper = FileKeeper(MemoryStore(), self.store, folder / "files")

    def keep(self, path: Path, happens: Any = None, **limits: Any) -> tuple[str | None, Any]:
        """The URI, and what was left alone."""
        pending = [happens] if happens else []

        def progress(done: int, size: int) -> None:
            if pending:
                pending.pop()()

        keeping = self.keeper.keeping("local", AllowedRoots([self.root]), replace(WIDE, **limits), progress)
        uri = keeping.uri_for(str(path))
        return uri, keeping.left.get(str(path))


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping(tmp_path)


def grow(path: Path, size: int) -> Any:
    def grown() -> None:
        with path.open("ab") as file:
            file.write(b"+" * size)

    return grown


@pytest.mark.parametrize("setting", ["max_file_bytes", "max_turn_bytes", "max_total_bytes"])
def test_a_file_that_grows_past_a_limit_while_it_is_read_stays(keeping: Keeping, setting: str) -> None:
    path = keeping.root / "a"
    path.write_bytes(b"x" * 10)

    uri, left = keeping.keep(path, grow(path, 40), **{setting: 20})

    assert uri is None
    assert left.setting == setting
    assert keeping.store.used_bytes() == 0


def test_of_a_file_over_the_limit_nothing_is_read_at_all(keeping: Keeping) -> None:
    path = keeping.root / "a"
    path.touch()
    os.truncate(path, 5_000_000)
    uri, left = keeping.keep(path, lambda: pytest.fail("it was read"), max_file_bytes=4_000_000)
    assert uri is None
    assert left.setting == "max_file_bytes"


# ── many ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_many_paths_that_stay_some_are_named_and_all_are_counted(place: Place) -> None:
    paths = [f"/nowhere/{number}" for number in range(500)]
    result = await place.given_out(paths, list[str])
    assert texts(result) == paths
    assert len(files_in(result)["left"]) == 20
    assert files_in(result)["leftInAll"] == 500
    assert is_recorded(place, result)


# ── a store that fails ───────────────────────────────────────────────────────────────────────────────────────────


class ForgetfulStore(MemoryStore):
    """Away whenever a turn is to be finished."""

    def finish(self, turn: Turn) -> FinishedTurn:
        raise StoreUnavailable("The store is away.", remedy="wait.")


async def test_when_the_turn_cannot_be_recorded_the_paths_stay_since_nobody_would_know_the_uris(seamed: Place) -> None:
    seamed.store = ForgetfulStore()
    seamed.set()
    path = seamed.file("a")
    result = await seamed.given_out([str(path), "text"], list[str])
    assert texts(result) == [str(path), "text"]
    assert result["structuredContent"]["result"] == [str(path), "text"]
    assert result["_meta"]["perdure/persisted"] is False


# ── a file store that fails ──────────────────────────────────────────────────────────────────────────────────────


class Failing:
    """A file store in memory that is away from the n-th file on."""

    bucket = BUCKET

    def __init__(self, kept: int) -> None:
        self.contents: dict[str, bytes] = {}
        self.left = kept

    def put(self, key: str, snapshot: Path, *, media_type: str) -> None:
        if self.left <= 0:
            raise StoreUnavailable("The file store is away.", remedy="wait.")
        self.left -= 1
        self.contents[key] = snapshot.read_bytes()

    def read(self, key: str) -> AbstractContextManager[BinaryIO]:
        return closing(io.BytesIO(self.contents[key]))

    def used_bytes(self) -> int:
        return 0

    def most_bytes(self) -> int | None:
        return None


@pytest.mark.parametrize("kept", [0, 1, 2])
async def test_when_the_file_store_goes_away_every_uri_in_the_result_is_one_that_can_be_read(
    seamed: Place, kept: int
) -> None:
    """A URI that no row of chat_files knows would be a dead reference in place of a living path."""
    seamed.file_store = Failing(kept)
    seamed.set()
    paths = [str(seamed.file(f"{number}", str(number).encode())) for number in range(3)]

    result = await seamed.given_out(paths, list[str])

    assert result["_meta"]["perdure/fault"] == "store_unavailable"
    assert result["_meta"]["perdure/persisted"] is True
    for number, text in enumerate(texts(result)):
        if text != paths[number]:
            assert seamed.content(text) == str(number).encode()
    assert result["structuredContent"]["result"] == texts(result)
    assert is_recorded(seamed, result)
    said = result["_meta"].get("perdure/files", {"stored": []})
    assert {file["uri"] for file in said["stored"]} == {text for text in texts(result) if "://" in text}
    assert incoming() == []


class Hanging(Failing):
    """It hangs at the n-th file until it is let go."""

    def __init__(self, kept: int) -> None:
        super().__init__(kept)
        self.let_go = threading.Event()

    def put(self, key: str, snapshot: Path, *, media_type: str) -> None:
        if self.left <= 0:
            self.let_go.wait()
            self.left = 1
        super().put(key, snapshot, media_type=media_type)


async def test_when_the_file_store_hangs_the_result_goes_out_and_every_uri_in_it_can_be_read(place: Place) -> None:
    hanging = Hanging(1)
    place.file_store = hanging
    place.set(file_timeout=0.1)
    paths = [str(place.file(f"{number}", str(number).encode())) for number in range(2)]
    try:
        result = await place.given_out(paths, list[str])
    finally:
        hanging.let_go.set()

    assert result["_meta"]["perdure/fault"] == "store_timeout"
    assert texts(result)[1] == paths[1]
    if texts(result)[0] != paths[0]:
        assert place.content(texts(result)[0]) == b"0"
    assert is_recorded(place, result)


async def test_a_file_that_cannot_be_written_down_leaves_nothing_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = place.file("a")
    monkeypatch.setattr(snapshot, "os", SimpleNamespace(**vars(os) | {"fsync": full, "fdatasync": full}))
    result = await place.given_out(str(path))
    assert texts(result) == [str(path)]
    assert result["_meta"]["perdure/persisted"] is True
    assert result["_meta"]["perdure/fault"]
    assert incoming() == []
