"""What the keeper of files does by itself with those that a tool gives out: what it keeps, what it leaves, and why."""

import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from files.keeper_bench import BUCKET, Bench, key_of, sha256

from perdure.errors import SpoolFull, StoreLeftAlone, StoreUnavailable
from perdure.middleware.persistence.files import keeper as keeper_module
from perdure.middleware.persistence.files.keeper import FileKeeper, Keeping, LeftAlone
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.turn import StoredFile

# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_kept_under_its_content_and_all_that_is_known_of_it_is_noted(bench: Bench) -> None:
    keeping = bench.keeping()
    path = bench.file(b"content", "ü b.txt")
    uri = keeping.uri_for(path)
    key = key_of(b"content", "_b.txt")
    assert uri == f"storage://{BUCKET}/{key}"
    assert keeping.stored == {
        path: StoredFile(
            key=key, bucket=BUCKET, name="ü b.txt", sha256=sha256(b"content"), size=7, media_type="text/plain"
        )
    }
    assert (keeping.left, keeping.away, keeping.is_on_its_way) == ({}, None, False)
    assert bench.file_store.media_types == {key: "text/plain"}
    assert bench.progress == [(7, 7)]
    assert bench.incoming() == []


def test_what_is_ours_is_for_nobody_else(bench: Bench) -> None:
    bench.keeping().uri_for(bench.file(b"content"))
    copy = bench.bring_back(bench.kept(b"content").uri)
    for folder in (bench.folder / "incoming", copy.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_name_that_is_no_text_is_kept_as_text(bench: Bench) -> None:
    path = bench.root / os.fsdecode(b"a\xff.txt")
    path.write_bytes(b"content")
    keeping = bench.keeping()
    assert keeping.uri_for(str(path)) == f"storage://{BUCKET}/{key_of(b'content', 'a_.txt')}"
    assert [stored.name for stored in keeping.stored.values()] == ["a\N{REPLACEMENT CHARACTER}.txt"]


def test_a_path_is_looked_at_once_whether_it_is_kept_or_left(bench: Bench) -> None:
    keeping = bench.keeping(max_file_bytes=10)
    kept, left = bench.file(b"content"), bench.file(b"x" * 11, "b.txt")
    first = keeping.uri_for(kept), keeping.uri_for(left)
    bench.file(b"other")
    bench.file(b"small", "b.txt")
    assert (keeping.uri_for(kept), keeping.uri_for(left)) == first
    assert first[1] is None
    assert bench.file_store.puts == 1


def test_no_file_stays_open(bench: Bench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    keeping = bench.keeping(max_file_bytes=10)
    keeping.uri_for(bench.file(b"content"))
    keeping.uri_for(bench.file(b"x" * 11, "b.txt"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_copy_is_kept_for_the_call_that_it_was_made_for_and_for_no_other(bench: Bench) -> None:
    copy = str(bench.bring_back(bench.kept(b"content").uri))
    assert bench.keeping(own_copies=(copy,)).uri_for(copy) == f"storage://{BUCKET}/{key_of(b'content')}"
    another = bench.keeping(own_copies=(f"{copy}.other",))
    assert another.uri_for(copy) is None
    assert another.left[copy].reason == "it lies outside of the allowed roots"
    assert another.uri_for(bench.file(b"content")) is not None


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def left(keeping: Keeping, path: str) -> tuple[str, str | None]:
    """The reason and the setting for which `path` stays."""
    assert keeping.uri_for(path) is None
    found = keeping.left[path]
    assert found == LeftAlone(path, found.reason, found.setting)
    return found.reason, found.setting


def test_a_file_is_as_large_as_one_file_may_be_and_no_larger(bench: Bench) -> None:
    keeping = bench.keeping(max_file_bytes=7)
    assert keeping.uri_for(bench.file(b"1234567")) is not None
    assert left(keeping, bench.file(b"12345678", "b")) == (
        "it has 8 bytes, and max_file_bytes leaves 7",
        "max_file_bytes",
    )


def test_all_files_of_a_turn_are_as_large_as_they_may_be_together_and_no_larger(bench: Bench) -> None:
    keeping = bench.keeping(max_turn_bytes=10)
    assert keeping.uri_for(bench.file(b"123", "a")) is not None
    assert left(keeping, bench.file(b"12345678", "b")) == (
        "it has 8 bytes, and max_turn_bytes leaves 7",
        "max_turn_bytes",
    )
    assert keeping.uri_for(bench.file(b"1234567", "c")) is not None
    assert left(keeping, bench.file(b"1", "d")) == ("it has 1 bytes, and max_turn_bytes leaves 0", "max_turn_bytes")
    assert keeping.uri_for(bench.file(b"", "e")) is not None


def test_as_many_files_are_kept_as_may_be_of_one_turn(bench: Bench) -> None:
    keeping = bench.keeping(max_turn_files=2)
    assert None not in [keeping.uri_for(bench.file(name.encode(), name)) for name in "ab"]
    assert left(keeping, bench.file(b"c", "c")) == ("at most 2 files are kept of one turn", "max_turn_files")


def test_files_are_kept_up_to_the_last_moment_that_there_is_for_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(keeper_module, "time", clock)
    keeping = bench.keeping(seconds=1e9)  # the snapshot goes by the real time
    clock.now += 1e9
    assert keeping.uri_for(bench.file(b"a", "a")) is not None
    clock.now += 1
    assert left(keeping, bench.file(b"b", "b")) == ("there was no time left to keep it", "file_timeout")


def test_the_time_for_files_ends_in_the_middle_of_one_too(bench: Bench) -> None:
    keeping = bench.keeping(seconds=1.0)
    keeping._keeper._incoming.mkdir(parents=True)
    keeping._deadline, deadline = float("inf"), keeping._deadline
    assert keeping._limit().deadline == float("inf")
    keeping._deadline = deadline
    assert keeping._limit().deadline == deadline


def test_what_fills_the_quota_exactly_is_kept_and_what_is_there_already_takes_no_room(bench: Bench) -> None:
    bench.kept(b"123")
    assert left(bench.keeping(max_total_bytes=10), bench.file(b"12345678", "b")) == (
        "it has 8 bytes, and max_total_bytes leaves 7",
        "max_total_bytes",
    )
    assert bench.keeping(max_total_bytes=10).uri_for(bench.file(b"1234567", "c")) is not None
    over = bench.keeping(max_total_bytes=5)
    assert left(over, bench.file(b"1", "d")) == ("it has 1 bytes, and max_total_bytes leaves 0", "max_total_bytes")
    assert over.uri_for(bench.file(b"123", "e")) is not None
    assert bench.incoming() == []


def test_a_file_is_as_large_as_the_bucket_admits_and_no_larger(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.file_store, "most_bytes", lambda: 1000)
    keeping = bench.keeping(max_file_bytes=5000, max_turn_bytes=5000, max_total_bytes=5000)
    assert keeping.uri_for(bench.file(b"x" * 1000)) is not None
    assert left(keeping, bench.file(b"x" * 1001, "b")) == (
        "it has 1,001 bytes, and the bucket's file_size_limit is 1,000",
        "file_size_limit of the bucket",
    )


def test_what_a_limit_keeps_out_is_no_fault_of_the_file_store(bench: Bench) -> None:
    bench.kept(b"123")
    for number in range(3):
        left(bench.keeping(max_total_bytes=5), bench.file(b"12345", f"{number}"))
    assert not bench.breaker.is_open


# ── a file store that is away ────────────────────────────────────────────────────────────────────────────────────


def test_without_a_spool_a_file_store_that_is_away_is_said_and_left_alone_after_some_time(bench: Bench) -> None:
    bench.file_store.away = True
    path = bench.file(b"content")
    keeping = bench.keeping()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="The file store is away"):
            keeping.uri_for(path)
        assert bench.incoming() == []
        assert not keeping.is_on_its_way
    with pytest.raises(StoreLeftAlone):
        keeping.uri_for(path)
    assert (keeping.stored, keeping.left) == ({}, {})


def test_a_keeper_that_was_given_no_breaker_asks_each_time(bench: Bench) -> None:
    bench.keeper = FileKeeper(bench.store, bench.file_store, bench.folder)
    bench.file_store.away = True
    bench.store.fail()
    for _ in range(20):
        with pytest.raises(StoreUnavailable, match="The file store is away"):
            bench.keeping().uri_for(bench.file(b"content"))
        with pytest.raises(StoreUnavailable, match="The store was told to fail"):
            bench.keeper.find("alice", f"storage://{BUCKET}/{key_of(b'content')}")


def test_with_a_spool_it_waits_there_and_it_is_known_why(spooled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spooled.file_store.away = True
    keeping = spooled.keeping(max_turn_bytes=10)
    assert keeping.uri_for(spooled.file(b"content")) == f"storage://{BUCKET}/{key_of(b'content')}"
    assert spooled.waiting(key_of(b"content")) == b"content"
    assert keeping.away is not None
    assert keeping.away.what == "The file store is away."
    assert spooled.incoming() == []
    assert left(keeping, spooled.file(b"1234", "b")) == (
        "it has 4 bytes, and max_turn_bytes leaves 3",
        "max_turn_bytes",
    )


def test_a_file_that_waits_has_its_media_type_with_it(spooled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = _types_that_wait(spooled, monkeypatch)
    spooled.file_store.away = True
    spooled.keeping().uri_for(spooled.file(b"<p>hello</p>", "a.html"))
    assert kept == {key_of(b"<p>hello</p>", "a.html"): "text/html"}


def test_where_the_spool_takes_nothing_more_nothing_is_left_lying_about(
    spooled: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object, **__: object) -> None:
        raise SpoolFull("It is full.")

    spooled.file_store.away = True
    monkeypatch.setattr(Spool, "keep_file", is_full)
    keeping = spooled.keeping()
    with pytest.raises(SpoolFull):
        keeping.uri_for(spooled.file(b"content"))
    assert (keeping.away, keeping.is_on_its_way, spooled.incoming()) == (None, False, [])


def test_what_hangs_on_its_way_is_rescued_into_the_spool(spooled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    types = _types_that_wait(spooled, monkeypatch)
    keeping = spooled.keeping()
    path = spooled.file(b"content")
    spooled.file_store.goes_on.clear()
    fails: list[OSError] = []

    def keep() -> None:
        try:
            keeping.uri_for(path)
        except OSError as error:  # its snapshot is not there any more
            fails.append(error)

    keeper = threading.Thread(target=keep)
    keeper.start()
    assert spooled.file_store.asked.wait(5)
    assert keeping.is_on_its_way
    assert keeping.stored == {}
    keeping.rescue()
    assert {path: stored.key for path, stored in keeping.stored.items()} == {path: key_of(b"content")}
    assert spooled.waiting(key_of(b"content")) == b"content"
    assert types == {key_of(b"content"): "text/plain"}
    spooled.file_store.away = True
    spooled.file_store.goes_on.set()
    keeper.join(5)
    assert len(fails) == 1
    assert not keeping.is_on_its_way


def test_what_has_just_arrived_needs_no_rescue(spooled: Bench) -> None:
    keeping = spooled.keeping()
    stored = StoredFile(key=key_of(b"a"), bucket=BUCKET, name="a", sha256=sha256(b"a"), size=1, media_type="text/plain")
    keeping._on_its_way["/a"] = stored, spooled.root / "taken away"
    keeping.rescue()
    assert keeping.stored == {}
    assert spooled.waiting(stored.key) is None


def test_without_a_spool_there_is_no_rescue(bench: Bench) -> None:
    keeping = bench.keeping()
    snapshot = Path(bench.file(b"a"))
    stored = StoredFile(key=key_of(b"a"), bucket=BUCKET, name="a", sha256=sha256(b"a"), size=1, media_type="text/plain")
    keeping._on_its_way["/a"] = stored, snapshot
    keeping.rescue()
    assert keeping.stored == {}
    assert snapshot.exists()


def _types_that_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found: dict[str, str] = {}
    keep = Spool.keep_file

    def noted(spool: Spool, key: str, snapshot: Path, *, media_type: str) -> None:
        keep(spool, key, snapshot, media_type=media_type)
        found[key] = media_type

    monkeypatch.setattr(Spool, "keep_file", noted)
    return found
