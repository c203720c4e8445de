"""A store that keeps large messages elsewhere keeps the contract; so does one to which every message is large."""

from pathlib import Path

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.large_messages import LargeMessages
from perdure.middleware.persistence.large_messages.bodies import Bodies
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.testing import StoreContract
from perdure.testing.expiry_contract import ExpiryContract
from perdure.testing.keeping_contract import KeepingContract
from perdure.testing.lease_contract import LeaseContract
from perdure.testing.reading_contract import ReadingContract
from perdure.testing.turn_contract import TurnContract


def _made(clock: Clock, folder: Path, max_bytes: int) -> LargeMessages:
    bodies = Bodies(LocalFileStore(folder / "files", "mcp-files"), folder)
    return LargeMessages(MemoryStore(clock), bodies, max_bytes=max_bytes)


class TestLargeMessages(StoreContract):
    outlives_close = False

    def make_store(self, clock: Clock, folder: Path) -> LargeMessages:
        return _made(clock, folder, 1_000_000)


class TestEveryMessageIsLarge(TurnContract, LeaseContract, ReadingContract, ExpiryContract, KeepingContract):
    """But for what is searched, which are heads, and what is removed, which are bodies too."""

    outlives_close = False

    def make_store(self, clock: Clock, folder: Path) -> LargeMessages:
        return _made(clock, folder, 0)
