"""The local file store keeps the contract."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.testing.file_store_contract import FileStoreContract


class TestLocalFileStore(FileStoreContract):
    def make_file_store(self, folder: Path) -> LocalFileStore:
        return LocalFileStore(folder / "files", bucket="mcp-files")

    def test_what_is_put_again_is_in_use_again(self) -> None:
        key = self.put(b"again")
        [path] = [path for path in (self.folder / "files").rglob("*") if path.is_file()]
        os.utime(path, (0, 0))
        self.put(b"again")
        assert not self.file_store.remove(key, unused_since=datetime.now(UTC) - timedelta(hours=1))
        assert self.read(key) == b"again"
