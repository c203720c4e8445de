"""What a store is, as tests. A backend inherits them, says how it is made, and is right when they pass.

    class TestMyStore(StoreContract):
        def make_store(self, clock, folder):
            return MyStore(folder / "turns.db", clock)

A store that forgets when it is closed says `outlives_close = False`. Every test uses a principal of its own, so a
backend may keep one database for all of them. The hooks are pytest's (`setup_method`, `teardown_method`); nothing of
pytest is imported.
"""

from perdure.testing.expiry_contract import ExpiryContract
from perdure.testing.forking_contract import ForkingContract
from perdure.testing.keeping_contract import KeepingContract
from perdure.testing.lease_contract import LeaseContract
from perdure.testing.reading_contract import ReadingContract
from perdure.testing.removing_contract import RemovingContract
from perdure.testing.searching_contract import SearchingContract
from perdure.testing.turn_contract import TurnContract

__all__ = ["StoreContract"]


class StoreContract(
    TurnContract,
    LeaseContract,
    ReadingContract,
    ExpiryContract,
    KeepingContract,
    SearchingContract,
    RemovingContract,
    ForkingContract,
):
    """All of it."""
