"""What a store that hangs adds to a call: its time-out while that is not known, and next to nothing afterwards.

    python tests/soak/hung_store.py --rounds 100

In each round a real Postgres is stopped (SIGSTOP), before a call or amid it, and calls go on until it is left alone;
then some more. Calls with the store up come before, in the same round. Prints one line. The exit code is 1 if the
99th percentile of what is added is over its limit: the time-out and 100 ms; 5 ms once the store is left alone. Goes
on where it was interrupted.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.postgres_cluster import PostgresCluster
from soak.calls import call
from soak.progress import Progress
from soak.suspended import suspended

from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.wiring import Runtime, build
from perdure.settings import Settings

BUDGET = 1.0
"""The setting operation_timeout, in seconds."""

MOST_OVER_BUDGET = 0.1
MOST_LEFT_ALONE = 0.005

CALLS = 20
"""In each round with the store up, and as many once it is left alone."""

PART = 10
"""Rounds after which what was done is written down."""


@dataclass
class Took:
    """Seconds that calls took."""

    up: list[float] = field(default_factory=list)
    hung: list[float] = field(default_factory=list)
    left_alone: list[float] = field(default_factory=list)


def measure(rounds: int) -> tuple[Took, list[str]]:
    """What calls took, and what a result said that was wrong."""
    took = Took()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="perdure-hung-") as temporary, PostgresCluster() as cluster:
        url = cluster.url(cluster.create_database("hung"))
        migrations.apply(url, "hung", lambda _: None)
        for number in range(rounds):
            settings = Settings(
                backend="postgres",
                database_url=url,
                data_dir=Path(temporary),
                operation_timeout=BUDGET,
            )
            runtime = build(settings)
            assert runtime.spool is not None
            try:
                wrong += _round(runtime, cluster, amid=bool(number % 2), took=took)
                while any(line.turns for line in runtime.spool.status()):
                    runtime.spool.flush(1.0)  # so that the next round begins with nothing that waits
            finally:
                runtime.spool.close()
                runtime.engine.store.close()
    return took, wrong


def _round(runtime: Runtime, cluster: PostgresCluster, *, amid: bool, took: Took) -> list[str]:
    """`amid`: the store stops while a tool's body runs, else before its call."""
    wrong = []

    def timed(into: list[float], fault: str | None, body: Callable[[], None] = lambda: None) -> str:
        paused = 0.0

        def body_alone() -> None:
            nonlocal paused
            began = time.monotonic()
            body()
            paused = time.monotonic() - began

        began = time.monotonic()
        _, meta = call(runtime, "hello", None, body_alone)
        into.append(time.monotonic() - began - paused)
        said = meta.get("perdure/fault", "")
        if not meta["perdure/persisted"] or (fault is not None and said != fault):
            wrong.append(f"a result said persisted: {meta['perdure/persisted']}, fault: {said!r} and not {fault!r}")
        return str(said)

    timed([], "")
    for _ in range(CALLS):
        timed(took.up, "")
    with suspended(cluster) as suspend:
        if amid:
            timed(took.hung, "store_timeout", suspend)
        else:
            suspend()
        while timed(this := [], None) != "store_left_alone":
            took.hung += this
        for _ in range(CALLS):
            timed(took.left_alone, "store_left_alone")
    return wrong


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    progress = Progress("hung_store", vars(given))
    while (done := progress.counts["rounds"]) < given.rounds:
        rounds = min(PART, given.rounds - done)
        took, wrong = measure(rounds)
        # As many figures as there are calls: they are few.
        seen = {f"{kind} {done} {n}": took for kind, all_of in vars(took).items() for n, took in enumerate(all_of)}
        progress.add(seen | {"rounds": rounds}, wrong)
    up, hung, left_alone = (
        [value for name, value in progress.counts.items() if name.startswith(f"{kind} ")]
        for kind in ("up", "hung", "left_alone")
    )
    found = list(progress.violations)
    if (over := percentile(hung, 99) - percentile(up, 99) - BUDGET) > MOST_OVER_BUDGET:
        found.append(f"a store that hangs adds its {BUDGET:g} s and {over * 1000:.0f} ms (p99)")
    if (added := percentile(left_alone, 99) - percentile(up, 99)) > MOST_LEFT_ALONE:
        found.append(f"a store that is left alone adds {added * 1000:.1f} ms (p99)")

    def said(values: list[float]) -> str:
        p50, p99 = percentile(values, 50), percentile(values, 99)
        return f"{p50 * 1000:.1f} ms (p50) {p99 * 1000:.1f} (p99) {max(values) * 1000:.1f} (max)"

    print(
        f"{given.rounds} rounds: a call took {said(up)} with the store up; {said(hung)} while it hung, of which "
        f"{BUDGET * 1000:g} are the time-out, {len(hung)} calls; {said(left_alone)} while it was left alone, "
        f"{len(left_alone)} calls; {len(found)} violations"
    )
    for violation in found[:20]:
        print(violation, file=sys.stderr)
    progress.end()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
