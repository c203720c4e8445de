"""Files that take longest are begun first: one that came last would run alone, while the other processes wait.

pytest-xdist begins with the files of most tests, and those that kill servers and processes have the fewest.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["longest_first"]

_FOLDER = Path(__file__).parent

LONGEST = (
    "soak/test_short_soaks.py",
    "promises/test_remembers.py",
    "files/test_supabase_uploads.py",
    "documentation/test_pages.py",
    "promises/test_files_kept_and_only_those_allowed.py",
    "faults/test_supabase_faults.py",
    "soak/test_short_campaigns.py",
    "promises/test_silent.py",
    "postgres/test_migrating.py",
    "promises/test_flat_on_postgres.py",
    "seams/suite/test_processes.py",
    "run/test_covered.py",
    "postgres/test_migrating_at_once.py",
    "seams/suite/test_shapes.py",
    "cli/test_doctor.py",
    "faults/test_postgres_writers_and_kills.py",
    "docker/test_walk_through.py",
    "servers/test_servers.py",
    "promises/test_flat.py",
    "promises/test_nothing_lost.py",
    "postgres/test_owner.py",
    "postgres/test_migration_refused.py",
    "servers/test_gateway.py",
    "isolation/test_campaign.py",
    "properties/test_redaction.py",
    "promises/test_never_breaks_a_call.py",
    "files/test_in.py",
    "promises/test_ordered_pairs.py",
    "faults/test_sqlite_faults.py",
    "properties/test_store_model.py",
    "contracts/test_supabase_stores.py",
    "cli/test_moving.py",
    "leases/test_processes.py",
    "promises/test_faithful.py",
    "servers/test_gateway_tus.py",
    "proxy/test_http.py",
    "cli/test_tools.py",
    "legs/test_two_processes.py",
    "seams/test_what_a_call_costs.py",
    "seams/test_server_hook.py",
    "examples/test_examples.py",
    "files/test_out.py",
    "seams/test_own_ids.py",
    "run/test_same_as_python.py",
    "faults/test_postgres_reconnecting.py",
    "isolation/test_canary.py",
    "servers/test_gateway_storage.py",
)
"""Those that take over 20 s where one process runs all on a busy machine."""


def longest_first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The files of `LONGEST`, then all others in their order. Within a file, everything stays as it is."""
    place = {_FOLDER / name: number for number, name in enumerate(LONGEST)}
    return sorted(items, key=lambda item: place.get(item.path, len(place)))
