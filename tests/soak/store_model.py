"""Whatever is asked of a store, in whatever order, it answers as the memory store does: for long.

    python tests/soak/store_model.py sqlite --examples 5000
    python tests/soak/store_model.py postgres --examples 500
    python tests/soak/store_model.py supabase --examples 500

Goes on where it was interrupted: each slice of examples has a seed of its own. Prints one line. The exit code is 1 if a
slice found a difference; hypothesis then tells the shortest way to it.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from properties.two_stores import PostgresAndMemory, SqliteAndMemory, SupabaseAndMemory, TwoStores
from servers.postgres_cluster import PostgresCluster
from servers.supabase_stack import SupabaseStack
from soak.progress import Progress

from perdure.middleware.persistence.migrations import postgres as migrations

Backend = Literal["sqlite", "postgres", "supabase"]

SLICE = {"sqlite": 50, "postgres": 10, "supabase": 10}
"""Examples after which what was done is written down."""


@contextmanager
def machine(backend: Backend) -> Iterator[type[TwoStores]]:
    """A machine over a database of its own."""
    match backend:
        case "sqlite":
            yield SqliteAndMemory
        case "postgres":
            with PostgresCluster(fsync=False) as cluster:
                url = cluster.url(cluster.create_database("model"))
                migrations.apply(url, "model", lambda _: None)
                PostgresAndMemory.url = url
                yield PostgresAndMemory
        case "supabase":
            with PostgresCluster(fsync=False) as cluster, SupabaseStack(cluster) as stack:
                SupabaseAndMemory.stack = stack
                yield SupabaseAndMemory


def run_slice(
    machine: type[TwoStores], *, number: int, examples: int, steps: int, shrink: bool = True
) -> tuple[Counter[str], list[str]]:
    """So many examples of so many steps. Returns figures and violations, by the shortest way there is with `shrink`."""
    TwoStores.done.clear()
    violations = []
    try:
        run_state_machine_as_test(
            seed(number)(machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                print_blob=False,
                phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception as error:
        violations.append(f"slice {number}: {error!r}\n" + "\n".join(getattr(error, "__notes__", [])))
    return Counter(TwoStores.done), violations


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=SLICE)
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=50, help="of each example")
    parser.add_argument("--seed", type=int, default=0, help="of the first slice; each has the next")
    given = parser.parse_args()
    progress = Progress(f"store_model_{given.backend}", vars(given))
    with machine(given.backend) as chosen:
        while (asked := progress.counts["asked"]) < given.examples:
            began = time.monotonic()
            examples = min(SLICE[given.backend], given.examples - asked)
            figures, violations = run_slice(
                chosen, number=given.seed + progress.counts["slices"], examples=examples, steps=given.steps
            )
            spent = {"asked": examples, "slices": 1, "seconds": time.monotonic() - began}
            progress.add(figures | spent, violations)
    counts, violations = progress.counts, progress.violations
    print(
        f"{given.backend} against memory: {counts['examples']:,} examples, {counts['steps']:,} steps in "
        f"{counts['seconds']:.0f} s, {len(violations)} differences"
    )
    for violation in violations[:5]:
        print(violation, file=sys.stderr)
    progress.end()
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
