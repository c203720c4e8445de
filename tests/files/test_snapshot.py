"""What is taken of a file: the content that was hashed, within its limits, and what kind of file it is said to be."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.middleware.persistence.files.allowed_roots import FileRefused, OpenFile
from perdure.middleware.persistence.files.snapshot import CHUNK, Limit, Progress, Snapshot, take_snapshot


def limit(most: int = 100_000_000, seconds: float = 60.0) -> Limit:
    return Limit(most, "max_file_bytes", time.monotonic() + seconds)


def nothing(done: int, whole: int) -> None:
    pass


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., Snapshot]:
    """Take a snapshot of some content; `at` is done in the middle of it, when so many bytes were read."""
    (tmp_path / "taken").mkdir()

    def take(
        content: bytes, *, name: str = "a.bin", most: Limit | None = None, progress: Progress = nothing
    ) -> Snapshot:
        source = tmp_path / name
        source.write_bytes(content)
        descriptor = os.open(source, os.O_RDONLY)
        try:
            file = OpenFile(descriptor, os.fstat(descriptor), name)
            return take_snapshot(file, tmp_path / "taken", most or limit(), progress)
        finally:
            os.close(descriptor)

    return take


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 17 * CHUNK + 5])
def test_a_snapshot_is_the_content_and_its_hash(take: Callable[..., Snapshot], size: int) -> None:
    content = os.urandom(size)
    told: list[tuple[int, int]] = []
    taken = take(content, progress=lambda done, whole: told.append((done, whole)))
    assert taken.path.read_bytes() == content
    assert (taken.size, taken.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert taken.path.stat().st_mode & 0o777 == 0o600
    assert told == [(min(done, size), size) for done in range(CHUNK, size + CHUNK, CHUNK)]


def test_snapshots_of_one_file_do_not_share_a_name(take: Callable[..., Snapshot]) -> None:
    assert take(b"a").path != take(b"a").path


def test_a_file_of_just_the_limit_is_taken_and_one_byte_more_is_not(
    take: Callable[..., Snapshot], tmp_path: Path
) -> None:
    assert take(b"x" * 1000, most=limit(1000)).size == 1000
    with pytest.raises(FileRefused) as refused:
        take(b"x" * 1001, most=limit(1000))
    assert refused.value.reason == "it has 1,001 bytes, and max_file_bytes leaves 1,000"
    assert refused.value.setting == "max_file_bytes"
    assert len(list((tmp_path / "taken").iterdir())) == 1


def test_where_no_time_is_left_nothing_is_taken(take: Callable[..., Snapshot], tmp_path: Path) -> None:
    with pytest.raises(FileRefused) as refused:
        take(b"x", most=limit(seconds=-1))
    assert (refused.value.reason, refused.value.setting) == ("there was no time left to keep it", "file_timeout")
    assert list((tmp_path / "taken").iterdir()) == []


@pytest.mark.parametrize("change", ["grows", "shrinks", "is written to"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_file_that_changes_meanwhile_is_read_again_and_the_third_time_left(
    take: Callable[..., Snapshot], tmp_path: Path, change: str, times: int
) -> None:
    changes = 0

    def meddle(done: int, whole: int) -> None:
        nonlocal changes
        if done >= CHUNK and changes < times and done < 2 * CHUNK:
            changes += 1
            with (tmp_path / "a.bin").open("r+b") as file:
                match change:
                    case "grows":
                        file.seek(0, os.SEEK_END)
                        file.write(b"more")
                    case "shrinks":
                        file.truncate(2 * CHUNK + 100 - changes)
                    case _:
                        file.write(f"{changes}".encode())
            os.utime(tmp_path / "a.bin", ns=(changes, changes))

    content = bytes(2 * CHUNK + 100)
    if times == 3:
        with pytest.raises(FileRefused, match="it changed while it was read"):
            take(content, progress=meddle)
        assert list((tmp_path / "taken").iterdir()) == []
    else:
        taken = take(content, progress=meddle)
        assert taken.path.read_bytes() == (tmp_path / "a.bin").read_bytes()
        assert taken.sha256 == hashlib.sha256(taken.path.read_bytes()).hexdigest()
        assert list((tmp_path / "taken").iterdir()) == [taken.path]


def test_a_file_that_grows_beyond_the_limit_meanwhile_is_left(take: Callable[..., Snapshot], tmp_path: Path) -> None:
    def grow(done: int, whole: int) -> None:
        with (tmp_path / "a.bin").open("ab") as file:
            file.write(bytes(CHUNK))

    with pytest.raises(FileRefused) as refused:
        take(bytes(2 * CHUNK), most=limit(2 * CHUNK), progress=grow)
    assert refused.value.setting == "max_file_bytes"
    assert list((tmp_path / "taken").iterdir()) == []


PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452")


@pytest.mark.parametrize(
    ("content", "name", "media_type"),
    [
        (PNG, "a.txt", "image/png"),
        (b"%PDF-1.7\n", "a.txt", "application/pdf"),
        (b"", "a", "text/plain"),
        (b"words", "a", "text/plain"),
        (b"BM is how this begins", "a", "text/plain"),
        (b"ID3 too", "a.md", "text/markdown"),
        (b"a,b\n1,2\n", "a.csv", "text/csv"),
        (b'{"a": 1}', "a.json", "application/json"),
        (b"words", "a.png", "text/plain"),
        (b"words\t\n\r\f\x1b[0m", "a", "text/plain"),
        (b"\0\1\2", "a", "application/octet-stream"),
        (b"\x01 text", "a", "application/octet-stream"),
        (b"caf\xe9s", "a", "application/octet-stream"),
        ("ü".encode(), "a", "text/plain"),
        (b"x" * 4095 + "ü".encode(), "a", "text/plain"),  # the head ends in the middle of it
    ],
    ids=ascii,
)
def test_what_kind_of_file_it_is(take: Callable[..., Snapshot], content: bytes, name: str, media_type: str) -> None:
    assert take(content, name=name).media_type == media_type
