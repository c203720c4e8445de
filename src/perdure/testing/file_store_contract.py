"""What a file store is, as tests. A backend inherits them, says how it is made, and is right when they pass.

    class TestMyFileStore(FileStoreContract):
        def make_file_store(self, folder):
            return MyFileStore(folder / "files", bucket="mcp-files")

Every test uses a tenant of its own, so a backend may keep one bucket for all of them. The hooks are pytest's
(`setup_method`, `teardown_method`); nothing of pytest is imported.
"""
# ruff: noqa: S101

import hashlib
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from perdure.errors import FileMissing, PerdureError
from perdure.middleware.persistence.ports import FileStore
from perdure.testing.file_removing_contract import FileRemovingContract

__all__ = ["FileStoreContract"]

PIECE = 1 << 20

HASH = "0" * 64

NO_KEYS = (
    "",
    "/",
    "//",
    "///",
    "tenant",
    f"tenant/{HASH}",
    f"tenant/{HASH}/",
    f"/{HASH}/name",
    f"tenant/{HASH}/name/more",
    f"/tenant/{HASH}/name",
    f"../{HASH}/name",
    f"../../{HASH}/name",
    f"../tenant/{HASH}/name",
    f"./{HASH}/name",
    f"tenant/../{HASH}",
    "tenant/../../etc/passwd",
    f"tenant/{'.' * 64}/name",
    f"tenant/{'../' * 21}./name",
    f"tenant/{HASH}/..",
    f"tenant/{HASH}/.",
    f"tenant/{HASH}/../../x",
    f"%2e%2e/{HASH}/name",
    f"%252e%252e/{HASH}/name",
    f"tenant%2f..%2f..%2f/{HASH}/name",
    f"tenant/{HASH}/%2e%2e",
    f"tenant/{HASH}/%2e%2e%2fname",
    f"tenant/{HASH}/%252e%252e%252fname",
    f"..\\/{HASH}/name",
    f"tenant\\..\\../{HASH}/name",
    f"tenant/{HASH}/..\\..\\name",
    f"ten\0ant/{HASH}/name",
    f"tenant/{HASH}/na\0me",
    f"tenant/{HASH}/na\nme",
    f"tenänt/{HASH}/name",
    f"tenant/{'٣' * 64}/name",
    f"tenant/{HASH.replace('0', 'g')}/name",
    f"tenant/{HASH[1:]}/name",
    f"tenant/{HASH}0/name",
    f"tenant/{HASH}/näme",
)
"""What is no `<tenant>/<sha256>/<safe name>`, or could be taken for something else on the way to a backend."""


class FileStoreContract(FileRemovingContract):
    outlives_close = True
    """Whether a file store that is made again, in the same folder, has what was given to the first one."""

    def make_file_store(self, folder: Path) -> FileStore:
        """A file store that keeps its files, if they are local, somewhere in `folder`."""
        raise NotImplementedError

    def setup_method(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="perdure-contract-")
        self.folder = Path(self._temporary.name)
        self.tenant = f"alice-{uuid.uuid4()}"
        self.file_store = self.make_file_store(self.folder)

    def teardown_method(self) -> None:
        self._temporary.cleanup()

    # ── content ──────────────────────────────────────────────────────────────────────────────────────────────

    def test_what_was_put_is_read_again(self) -> None:
        key = self.put(b"hello")
        assert self.read(key) == b"hello"

    def test_every_byte_comes_back_as_it_was(self) -> None:
        content = bytes(range(256)) * 41 + b"\r\n\0\x1a\xff\xfe"
        assert self.read(self.put(content, name="all.bin")) == content

    def test_an_empty_file_is_a_file(self) -> None:
        assert self.read(self.put(b"")) == b""

    def test_content_can_be_read_in_pieces_and_ends(self) -> None:
        content = b"".join(bytes([number]) * PIECE for number in range(3)) + b"the end"
        key = self.put(content)
        pieces = []
        with self.file_store.read(key) as source:
            while piece := source.read(PIECE):
                assert len(piece) <= PIECE
                pieces.append(piece)
            assert source.read(1) == b""
        assert b"".join(pieces) == content

    def test_a_reader_may_stop_before_the_end(self) -> None:
        key = self.put(b"0123456789")
        with self.file_store.read(key) as source:
            assert source.read(3) == b"012"
        assert self.read(key) == b"0123456789"

    def test_several_readers_do_not_disturb_each_other(self) -> None:
        key = self.put(b"abcdef")
        with self.file_store.read(key) as first, self.file_store.read(key) as second:
            assert (first.read(2), second.read(4), first.read(), second.read()) == (b"ab", b"abcd", b"cdef", b"ef")

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────

    def test_putting_the_same_key_again_changes_nothing(self) -> None:
        assert self.put(b"once") == self.put(b"once")
        assert self.read(self.key(b"once")) == b"once"

    def test_one_content_under_two_names_can_be_read_under_both(self) -> None:
        assert self.read(self.put(b"same", name="a.txt")) == self.read(self.put(b"same", name="b.txt")) == b"same"

    def test_another_content_under_the_same_name_is_another_file(self) -> None:
        first, second = self.put(b"one", name="a.txt"), self.put(b"two", name="a.txt")
        assert (self.read(first), self.read(second)) == (b"one", b"two")

    def test_what_one_tenant_put_no_other_has(self) -> None:
        key = self.put(b"mine")
        other = key.replace(self.tenant, f"mallory-{uuid.uuid4()}")
        assert self.is_missing(other)

    def test_every_tenant_that_a_principal_can_become_is_one(self) -> None:
        for tenant in ("a", "A", "7", "-", "_", "--", "a-b_c", "h-" + HASH, "z" * 64):
            key = self.put(f"of {tenant} {self.tenant}".encode(), tenant=tenant)
            assert self.read(key) == f"of {tenant} {self.tenant}".encode()

    def test_every_safe_name_is_a_name(self) -> None:
        for name in ("a", "_", "-", "a.b", "a..b", "file.tar.gz", "_.txt", "x" * 80, "-rf", "name."):
            assert self.read(self.put(b"content", name=name)) == b"content"

    def test_a_file_that_was_never_put_is_missing(self) -> None:
        assert self.is_missing(self.key(b"never put"))

    def test_what_is_no_key_names_no_file_and_is_never_written(self) -> None:
        sentinel = self.folder / "name"
        sentinel.write_bytes(b"not of the file store")
        for key in NO_KEYS:
            assert self.is_missing(key), key
            before = self.files_in_folder()
            snapshot = self.snapshot(b"of no key")
            assert self.fails(lambda key=key, snapshot=snapshot: self.put_at(key, snapshot)), key  # type: ignore[misc]
            snapshot.unlink(missing_ok=True)
            assert self.files_in_folder() == before, key

    # ── putting ──────────────────────────────────────────────────────────────────────────────────────────────

    def test_what_becomes_of_the_snapshot_afterwards_changes_nothing(self) -> None:
        snapshot = self.snapshot(b"as it was")
        key = self.key(b"as it was")
        self.put_at(key, snapshot)
        if snapshot.exists():
            snapshot.write_bytes(b"altered!!")
        assert self.read(key) == b"as it was"

    def test_a_put_that_fails_is_said_and_leaves_nothing_under_the_key(self) -> None:
        key = self.key(b"gone")
        assert self.fails(lambda: self.put_at(key, self.folder / "no-such-snapshot"))
        assert self.is_missing(key)
        assert self.read(self.put(b"gone")) == b"gone"

    def test_the_same_content_put_by_many_at_once_is_there_once_and_whole(self) -> None:
        content = b"together" * 10_000
        start = threading.Barrier(8)

        def put() -> None:
            start.wait()
            self.put(content)

        self.at_once(put, 8)
        assert self.read(self.key(content)) == content

    def test_readers_never_see_half_of_what_is_being_put(self) -> None:
        content = b"whole or not at all" * 100_000
        key = self.key(content)
        done = threading.Event()
        seen: set[int | None] = set()

        def look() -> None:
            while not done.is_set():
                try:
                    seen.add(len(self.read(key)))
                except FileMissing:
                    seen.add(None)

        reader = threading.Thread(target=look)
        reader.start()
        try:
            self.put(content)
        finally:
            done.set()
            reader.join()
        assert seen <= {None, len(content)}

    def test_a_file_store_made_again_has_what_was_put(self) -> None:
        key = self.put(b"still here")
        if self.outlives_close:
            self.file_store = self.make_file_store(self.folder)
            assert self.read(key) == b"still here"

    # ── how much ─────────────────────────────────────────────────────────────────────────────────────────────

    def test_what_is_put_counts(self) -> None:
        before = self.file_store.used_bytes()
        self.put(b"x" * 1000)
        self.put(b"y" * 500)
        assert self.file_store.used_bytes() >= before + 1500

    def test_the_same_content_counts_once(self) -> None:
        self.put(b"z" * 100_000, name="a")
        before = self.file_store.used_bytes()
        self.put(b"z" * 100_000, name="a")
        assert self.file_store.used_bytes() < before + 100_000

    def test_a_file_store_made_again_counts_what_is_there(self) -> None:
        self.put(b"x" * 2000)
        if self.outlives_close:
            assert self.make_file_store(self.folder).used_bytes() >= 2000

    def test_counting_does_not_trip_over_what_is_written_meanwhile(self) -> None:
        contents = [f"{self.tenant} {number}".encode() for number in range(100)]

        def put() -> None:
            for content in contents:
                self.put(content)

        def count() -> None:
            for _ in range(30):
                assert self.make_file_store(self.folder).used_bytes() >= 0

        failures: list[BaseException] = []
        threads = [threading.Thread(target=_noting(failures, work)) for work in (put, count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────

    def key(self, content: bytes, *, name: str = "a.txt", tenant: str | None = None) -> str:
        return f"{tenant or self.tenant}/{hashlib.sha256(content).hexdigest()}/{name}"

    def snapshot(self, content: bytes) -> Path:
        path = self.folder / f"snapshot-{uuid.uuid4()}"
        path.write_bytes(content)
        return path

    def put(self, content: bytes, *, name: str = "a.txt", tenant: str | None = None) -> str:
        key = self.key(content, name=name, tenant=tenant)
        snapshot = self.snapshot(content)
        self.put_at(key, snapshot)
        snapshot.unlink(missing_ok=True)
        return key

    def put_at(self, key: str, snapshot: Path) -> None:
        self.file_store.put(key, snapshot, media_type="text/plain")

    def read(self, key: str) -> bytes:
        with self.file_store.read(key) as source:
            return source.read()

    def is_missing(self, key: str) -> bool:
        try:
            self.read(key)
        except FileMissing:
            return True
        return False

    def fails(self, work: Callable[[], object]) -> bool:
        """Whether `work` fails as perdure's own error, which seams can tell."""
        try:
            work()
        except PerdureError:
            return True
        return False

    def files_in_folder(self) -> set[Path]:
        return {path for path in self.folder.rglob("*") if path.is_file()}

    def at_once(self, work: Callable[[], None], times: int) -> None:
        failures: list[BaseException] = []
        threads = [threading.Thread(target=_noting(failures, work)) for _ in range(times)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def _noting(failures: list[BaseException], work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)

    return run
