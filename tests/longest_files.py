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
    "supabase/test_two_tenants.py",
    "promises/test_silent.py",
    "postgres/test_migrating.py",
    "promises/test_flat_on_postgres.py",
    "seams/suite/test_processes.py",
    "run/test_covered.py",
    "postgres/test_migrating_at_once.py",
    "seams/suite/test_shapes.py",
    "cli/test_doctor.py",
    "faults/test_postgres_writers_and_kills.py",
    "supabase/test_requests.py",
    "shutdown/test_endings.py",
    "docker/test_walk_through.py",
    "servers/test_servers.py",
    "promises/test_flat.py",
    "promises/test_nothing_lost.py",
    "postgres/test_owner.py",
    "postgres/test_migration_refused.py",
    "servers/test_gateway.py",
    "isolation/test_campaign.py",
    "properties/test_redaction.py",
    "viewer/test_command.py",
    "promises/test_never_breaks_a_call.py",
    "files/test_in.py",
    "viewer/test_backends.py",
    "promises/test_ordered_pairs.py",
    "faults/test_sqlite_faults.py",
    "properties/test_store_model.py",
    "contracts/test_supabase_stores.py",
)
"""Those that take over 30 s where one process runs all on a busy machine, by the sums of `pytest --durations=0`."""


def longest_first(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The files of `LONGEST`, then all others in their order. Within a file, everything stays as it is."""
    if missing := [name for name in LONGEST if not (_FOLDER / name).exists()]:
        raise pytest.UsageError(f"tests/longest_files.py names {', '.join(missing)}, which is not there: take it out.")
    place = {_FOLDER / name: number for number, name in enumerate(LONGEST)}
    return sorted(items, key=lambda item: place.get(item.path, len(place)))
