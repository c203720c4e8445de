"""The local file store keeps the contract."""

from pathlib import Path

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.testing.file_store_contract import FileStoreContract


class TestLocalFileStore(FileStoreContract):
    def make_file_store(self, folder: Path) -> LocalFileStore:
        return LocalFileStore(folder / "files", bucket="mcp-files")
