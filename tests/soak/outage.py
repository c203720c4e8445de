"""The store is away for long, under load, and comes back: refused connections, or a server that hangs.

    python tests/soak/outage.py --seconds 600 --away refused --away hung

50 calls a second arrive, whether the earlier ones have been answered or not, in 200 conversations and in 3 that are
shared by many. A run with the store up comes before and after. Everything must be sent within 3 minutes of the
store's return, in order. Prints one line for each. The exit code is 1 if a turn is missing, doubled or out of its
order, or if a limit is broken: 25 ms added to the 99th percentile of a call, 50 MB of memory, 3 minutes. Goes on
with the outage that was interrupted.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from servers.postgres_cluster import PostgresCluster
from soak.acknowledged import Ledger, counted, told, violations
from soak.calls import PRINCIPAL, call_async
from soak.progress import Progress
from soak.suspended import suspended

from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.wiring import Runtime, build
from perdure.settings import Settings

PER_SECOND = 50
OWN = 200
"""Conversations in which one call comes after the other."""

SHARED = 3
SHARED_EVERY = 10
"""One call of so many goes into a shared one, whose calls overlap."""

MOST_ADDED = 0.025
MOST_GROWTH = 50_000_000
LONGEST_REPLAY = 180.0

WARM_UP = 2.0
"""Seconds, which are not measured."""

Away = Literal["refused", "hung"]
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outage:
    away: Away
    seconds: float
    up: float
    """Seconds of each run with the store up."""


def survive(outage: Outage) -> tuple[Json, list[str]]:
    """Figures and violations; limits are the caller's to hold them to."""
    with tempfile.TemporaryDirectory(prefix="perdure-outage-") as temporary, PostgresCluster() as cluster:
        folder = Path(temporary)
        url = cluster.url(cluster.create_database("outage"))
        migrations.apply(url, "outage", lambda _: None)
        command = [sys.executable, __file__, f"--serve={folder}"]
        with (folder / "stderr").open("w") as stderr:
            caller = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:

            def told_to(order: Json) -> Json:
                assert caller.stdin
                assert caller.stdout
                caller.stdin.write(json.dumps(order) + "\n")
                caller.stdin.flush()
                answer = caller.stdout.readline()
                assert answer, (folder / "stderr").read_text()[-3000:]
                reply: Json = json.loads(answer)
                return reply

            told_to({"url": url})
            told_to({"calls": WARM_UP})
            before = told_to({"calls": outage.up})
            with _taken_away(cluster, outage.away):
                away = told_to({"calls": outage.seconds})
            back = told_to({"drain": LONGEST_REPLAY})
            after = told_to({"calls": outage.up})
            rest = told_to({"drain": LONGEST_REPLAY})
        finally:
            caller.kill()
            caller.wait()
        ledger = Ledger(folder / "acknowledged")
        lines = ledger.read()
        ledger.close()
        found = []
        runtime = build(_settings(folder, url))
        if back["left"] or rest["left"]:
            found.append(f"{back['left']} and {rest['left']} turns still wait {LONGEST_REPLAY:g} s after its return")
        assert runtime.spool is not None
        found += [f"in quarantine: {one.reason}" for one in runtime.spool.quarantine()]
        found += violations(runtime.engine.store, PRINCIPAL, lines)
        runtime.spool.close()
        runtime.engine.store.close()
    counts = counted(lines)
    if counts["not acknowledged"]:
        faults = Counter(line.fault for line in lines if not line.persisted)
        found.append(f"{counts['not acknowledged']} turns were said not to be kept: {dict(faults)}")
    up = sorted(before["took"] + after["took"])
    figures = {
        "calls": len(lines),
        "acknowledged": counts["acknowledged"],
        "deferred": counts["deferred"],
        "up p50": _percentile(up, 50),
        "up p99": _percentile(up, 99),
        "away p50": _percentile(away["took"], 50),
        "away p99": _percentile(away["took"], 99),
        "away max": max(away["took"]),
        "away rate": len(away["took"]) / away["seconds"],
        "grown": away["rss"] - before["rss"],
        "grown in the end": rest["rss"] - before["rss"],
        "waited": back["waited"],
        "replay": back["seconds"],
    }
    return figures, found


def broken_limits(figures: Json) -> list[str]:
    found = []
    if (added := figures["away p99"] - figures["up p99"]) > MOST_ADDED:
        found.append(f"the 99th percentile of a call grew by {added * 1000:.1f} ms")
    if (grown := max(figures["grown"], figures["grown in the end"])) > MOST_GROWTH:
        found.append(f"memory grew by {grown / 1e6:.0f} MB")
    if figures["replay"] > LONGEST_REPLAY:
        found.append(f"the replay took {figures['replay']:.0f} s")
    return found


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@contextmanager
def _taken_away(cluster: PostgresCluster, away: Away) -> Iterator[None]:
    match away:
        case "refused":
            cluster.kill()
            yield
            cluster.start()
        case "hung":
            with suspended(cluster) as suspend:
                suspend()
                yield


def _settings(folder: Path, url: str) -> Settings:
    return Settings(backend="postgres", database_url=url, data_dir=folder / "data")


# ── the process that calls ───────────────────────────────────────────────────────────────────────────────────


def _serve(folder: Path) -> None:
    runtime = build(_settings(folder, json.loads(sys.stdin.readline())["url"]))
    assert runtime.spool is not None
    caller = Caller(runtime, Ledger(folder / "acknowledged"))
    _say({})
    for line in sys.stdin:
        match json.loads(line):
            case {"calls": seconds}:
                _say(asyncio.run(caller.run(seconds)))
            case {"drain": seconds}:
                _say(_drained(runtime.spool, seconds))


def _say(what: Json) -> None:
    print(json.dumps(what | {"rss": psutil.Process().memory_info().rss}), flush=True)


class Caller:
    def __init__(self, runtime: Runtime, ledger: Ledger) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._made = 0

    async def run(self, seconds: float) -> Json:
        """Start so many calls a second, and wait for all. Says what each took."""
        took: list[float] = []
        locks = [asyncio.Lock() for _ in range(OWN)]

        async def own(number: int) -> None:
            index = number % OWN
            async with locks[index]:
                await self._call(f"own {index}", number, f"own {index}", took)

        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for count in range(int(seconds * PER_SECOND)):
                await asyncio.sleep(began + count / PER_SECOND - time.monotonic())
                number = self._made = self._made + 1
                if number % SHARED_EVERY:
                    tasks.create_task(own(number))
                else:
                    # Its calls overlap, so none has a neighbour that it must stay behind.
                    name = f"shared {number // SHARED_EVERY % SHARED}"
                    tasks.create_task(self._call(f"{number}", 0, name, took))
        return {"took": took, "seconds": time.monotonic() - began}

    async def _call(self, writer: str, number: int, conversation: str, took: list[float]) -> None:
        prompt = f"{writer} {number}: " + "what was it that we said about the plan? " * (number % 20)
        began = time.monotonic()
        meta = await call_async(self._runtime, prompt, conversation)
        took.append(time.monotonic() - began)
        self._ledger.write(told(writer, number, prompt, meta))


def _drained(spool: Spool, seconds: float) -> Json:
    began = time.monotonic()
    left = waited = sum(line.turns for line in spool.status())
    while left and time.monotonic() - began < seconds:
        spool.flush(0.5)
        left = sum(line.turns for line in spool.status())
        if left:
            time.sleep(0.05)
    return {"waited": waited, "left": left, "seconds": time.monotonic() - began}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--up", type=float, default=60.0, help="seconds of each run with the store up")
    parser.add_argument("--away", choices=get_args(Away), action="append", help="default: each")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        _serve(given.serve)
        return 0
    status = 0
    for away in given.away or get_args(Away):
        progress = Progress(f"outage_{away}", vars(given))
        if not progress.counts:
            figures, found = survive(Outage(away=away, seconds=given.seconds, up=given.up))
            progress.add(figures, found + broken_limits(figures))
        print(f"{given.seconds:g} s away ({away}) {_line(progress.counts)}; {len(progress.violations)} violations")
        for violation in progress.violations[:20]:
            print(violation, file=sys.stderr)
        status = status or bool(progress.violations)
    for away in given.away or get_args(Away):
        Progress(f"outage_{away}", vars(given)).end()
    return int(status)


def _line(figures: Json) -> str:
    ms = {name: f"{value * 1000:.1f}" for name, value in figures.items()}
    return (
        f"at {figures['away rate']:.1f} turns/s: {figures['acknowledged']:,} of {figures['calls']:,} acknowledged, "
        f"{figures['waited']:,} waited and were sent within {figures['replay']:.1f} s of its return; a call took "
        f"{ms['away p50']} ms (p50), {ms['away p99']} (p99), {ms['away max']} (max), with the store up {ms['up p50']} "
        f"and {ms['up p99']}; memory grew by "
        f"{figures['grown'] / 1e6:.1f} MB, in the end {figures['grown in the end'] / 1e6:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
