"""For whoever writes a store, or tests a server that uses one.

`StoreContract` is the whole definition of a store, and `FileStoreContract` of a file store, as tests to inherit;
`GroupingStoreContract` beside the first is that of a store which takes several turns at once.
`FrozenClock` and `FaultyStore` are the only things perdure's own tests put in the place of real ones: time, and faults.
"""

import sys

# Only if the tests run under pytest: its asserts then say what was compared. It must come before the imports.
if (_pytest := sys.modules.get("pytest")) is not None:
    _pytest.register_assert_rewrite(
        *(
            f"perdure.testing.{name}"
            for name in (
                "expiry_contract",
                "file_removing_contract",
                "forking_contract",
                "file_store_contract",
                "grouping_contract",
                "keeping_contract",
                "lease_contract",
                "reading_contract",
                "removing_contract",
                "searching_contract",
                "store_bench",
                "turn_contract",
            )
        )
    )

from perdure.testing.clocks import FrozenClock
from perdure.testing.faulty_store import FaultyStore
from perdure.testing.file_store_contract import FileStoreContract
from perdure.testing.grouping_contract import GroupingStoreContract
from perdure.testing.store_contract import StoreContract

__all__ = ["FaultyStore", "FileStoreContract", "FrozenClock", "GroupingStoreContract", "StoreContract"]
