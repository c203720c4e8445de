"""What the keeper of files finds for whom, and how it brings it back."""

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from files.keeper_bench import BUCKET, Bench, key_of, sha256

from perdure.errors import FileMissing, StoreLeftAlone, StoreUnavailable
from perdure.middleware.persistence.files import content as content_module
from perdure.middleware.persistence.turn import StoredFile
from perdure.testing.turns import a_turn, answered

# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_found_by_the_uri_that_was_given_out(bench: Bench) -> None:
    stored = bench.kept(b"content")
    assert bench.keeper.find("alice", stored.uri) == stored


@pytest.mark.parametrize(
    "uri",
    [
        f"storage://{BUCKET}/{key_of(b'never')}",
        f"storage://{BUCKET}/{key_of(b'content', tenant='alice2')}",
        f"storage://{BUCKET}/{key_of(b'content', tenant='bob')}",
        f"storage://elsewhere/{key_of(b'content')}",
        key_of(b"content"),
    ],
)
def test_what_is_not_there_for_a_principal_is_missing_in_the_same_words_whatever_it_is(bench: Bench, uri: str) -> None:
    for principal in ("alice", "alice2", "bob"):
        bench.kept(b"content", principal=principal)
    with pytest.raises(FileMissing) as raised:
        bench.keeper.find("alice", uri)
    assert raised.value.what == f"There is no file {uri}."
    assert raised.value.remedy == "use a URI that an earlier result gave."


def test_the_store_is_not_asked_for_what_is_somebody_elses(bench: Bench) -> None:
    with pytest.raises(FileMissing):
        bench.keeper.find("alice", f"storage://{BUCKET}/{key_of(b'content', tenant='bob')}")
    assert bench.store.calls("file") == 0


def test_a_store_that_fails_is_left_alone_after_some_time(bench: Bench) -> None:
    bench.store.fail()
    uri = f"storage://{BUCKET}/{key_of(b'content')}"
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="told to fail"):
            bench.keeper.find("alice", uri)
    with pytest.raises(StoreLeftAlone):
        bench.keeper.find("alice", uri)
    assert not bench.breaker.is_open


def test_a_file_of_a_turn_that_waits_is_found_without_the_store(spooled: Bench) -> None:
    file = StoredFile(
        key=key_of(b"content"), bucket=BUCKET, name="a.txt", sha256=sha256(b"content"), size=7, media_type="text/plain"
    )
    assert spooled.spool is not None
    spooled.spool.keep(answered(a_turn("waits", continuation_id="c", files=(file,))))
    spooled.store.fail()
    assert spooled.keeper.find("alice", file.uri) == file
    spooled.store.heal()
    other = spooled.kept(b"other")
    assert spooled.keeper.find("alice", other.uri) == other


# ── bringing back ────────────────────────────────────────────────────────────────────────────────────────────────

BRING_BACK: dict[str, Callable[[Bench, str], object]] = {
    "for a tool": lambda bench, uri: bench.bring_back(uri),
    "to a stream": lambda bench, uri: bench.keeper.copy_to(io.BytesIO(), "alice", uri, progress=bench.note),
    "in memory": lambda bench, uri: bench.keeper.content("alice", uri, max_bytes=1000),
}


def test_a_file_comes_back_as_a_copy_under_its_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_module, "CHUNK", 4)
    uri = bench.kept(b"0123456789", "ü.txt").uri
    copies = [bench.bring_back(uri), bench.bring_back(uri, max_bytes=10)]
    assert [copy.name for copy in copies] == ["ü.txt"] * 2
    assert [copy.read_bytes() for copy in copies] == [b"0123456789"] * 2
    assert [copy.parent.parent for copy in copies] == [bench.keeper.copies] * 2
    assert len({copy.parent for copy in copies}) == 2
    assert all(len(copy.parent.name) == 32 for copy in copies)
    assert bench.progress == [(4, 10), (8, 10), (10, 10)] * 2


def test_a_file_is_copied_to_a_stream_whatever_its_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_module, "CHUNK", 4)
    stored = bench.kept(b"0123456789")
    out = io.BytesIO()
    assert bench.keeper.copy_to(out, "alice", stored.uri, progress=bench.note) == stored
    assert out.getvalue() == b"0123456789"
    assert bench.progress == [(4, 10), (8, 10), (10, 10)]


def test_a_file_is_read_into_memory_with_its_media_type(bench: Bench) -> None:
    uri = bench.kept(b"0123456789").uri
    assert bench.keeper.content("alice", uri, max_bytes=10) == (b"0123456789", "text/plain")


@pytest.mark.parametrize("bring_back", BRING_BACK.values(), ids=BRING_BACK)
def test_what_waits_in_the_spool_is_read_from_there(spooled: Bench, bring_back: Callable[[Bench, str], object]) -> None:
    file = spooled.kept(b"content")
    spooled.alter(file, b"altered")
    assert spooled.spool is not None
    spooled.spool.keep_file(file.key, Path(spooled.file(b"content")), media_type="text/plain")
    spooled.file_store.away = True
    bring_back(spooled, file.uri)


@pytest.mark.parametrize("bring_back", BRING_BACK.values(), ids=BRING_BACK)
@pytest.mark.parametrize("altered", [b"altered", b"conten", b"content and more", b""])
def test_content_that_is_not_what_was_kept_is_not_given_out(
    bench: Bench, bring_back: Callable[[Bench, str], object], altered: bytes
) -> None:
    stored = bench.kept(b"content")
    bench.alter(stored, altered)
    with pytest.raises(FileMissing) as raised:
        bring_back(bench, stored.uri)
    assert raised.value.what == f"The content of {stored.uri} is not what was kept."
    assert raised.value.remedy == "put back a backup of the file store."
    assert not bench.keeper.copies.exists() or list(bench.keeper.copies.iterdir()) == []


def test_a_file_that_is_larger_than_what_may_come_back_is_refused(bench: Bench) -> None:
    stored = bench.kept(b"x" * 1001)
    with pytest.raises(FileMissing) as raised:
        bench.bring_back(stored.uri, max_bytes=1000)
    assert raised.value.what == f"{stored.uri} has 1,001 bytes; at most 1,000 are brought back."
    assert raised.value.remedy == "raise max_file_bytes in perdure.toml."
    assert list(bench.keeper.copies.iterdir()) == []


def test_a_file_that_is_too_large_for_a_resource_is_refused(bench: Bench) -> None:
    stored = bench.kept(b"x" * 1001)
    with pytest.raises(FileMissing) as raised:
        bench.keeper.content("alice", stored.uri, max_bytes=1000)
    assert raised.value.what == f"{stored.uri} has 1,001 bytes; at most 1,000 are sent as a resource."
    assert raised.value.remedy == "pass the URI to a tool, or raise max_resource_bytes in perdure.toml."


def test_a_copy_that_is_broken_off_leaves_nothing_behind(bench: Bench) -> None:
    stored = bench.kept(b"content")

    def broken_off(_done: int, _size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.keeper.bring_back("alice", stored.uri, max_bytes=1000, progress=broken_off)
    assert list(bench.keeper.copies.iterdir()) == []


def test_a_copy_that_is_broken_off_says_so_though_its_folder_is_gone_already(bench: Bench) -> None:
    stored = bench.kept(b"content")

    def broken_off(_done: int, _size: int) -> None:
        shutil.rmtree(bench.keeper.copies)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.keeper.bring_back("alice", stored.uri, max_bytes=1000, progress=broken_off)


def test_of_content_that_has_grown_no_more_is_read_into_memory_than_shows_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, asked = bench.kept(b"content"), []

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    monkeypatch.setattr(bench.file_store, "read", lambda _: contextlib.nullcontext(Counted(b"content" * 1000)))
    with pytest.raises(FileMissing):
        bench.keeper.content("alice", stored.uri, max_bytes=1000)
    assert asked == [8]
