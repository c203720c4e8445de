"""What a file store is, second part: what nobody names any more is removed; what somebody is about to name is not."""
# ruff: noqa: S101

from datetime import UTC, datetime, timedelta

from perdure.errors import FileMissing
from perdure.middleware.persistence.ports import FileStore

__all__ = ["FileRemovingContract"]

_HOUR = timedelta(hours=1)


class FileRemovingContract:
    file_store: FileStore

    def put(self, content: bytes, *, name: str = "a.txt", tenant: str | None = None) -> str:
        raise NotImplementedError

    def key(self, content: bytes, *, name: str = "a.txt", tenant: str | None = None) -> str:
        raise NotImplementedError

    def read(self, key: str) -> bytes:
        raise NotImplementedError

    def test_what_is_removed_is_missing_and_can_be_put_again(self) -> None:
        key, other = self.put(b"not needed"), self.put(b"needed")
        assert self.file_store.remove(key, unused_since=_later())
        assert self._is_gone(key)
        assert self.read(other) == b"needed"
        assert self.read(self.put(b"not needed")) == b"not needed"

    def test_removing_again_or_what_was_never_there_does_no_harm(self) -> None:
        key = self.put(b"not needed")
        assert [self.file_store.remove(key, unused_since=_later()) for _ in range(2)] == [True, True]
        assert self.file_store.remove(self.key(b"never put"), unused_since=_later())

    def test_what_was_put_a_moment_ago_stays(self) -> None:
        key = self.put(b"fresh")
        assert not self.file_store.remove(key, unused_since=datetime.now(UTC) - _HOUR)
        assert self.read(key) == b"fresh"

    def test_a_content_under_two_names_is_one_or_two_as_the_store_says(self) -> None:
        first, second = self.put(b"same", name="a.txt"), self.put(b"same", name="b.txt")
        self.file_store.remove(first, unused_since=_later())
        assert self._is_gone(first)
        assert self._is_gone(second) is self.file_store.one_copy

    def _is_gone(self, key: str) -> bool:
        try:
            self.read(key)
        except FileMissing:
            return True
        return False


def _later() -> datetime:
    return datetime.now(UTC) + _HOUR
