"""kill -9 of two processes that share one spool, at random, while Postgres is killed and started again.

    python tests/soak/spool_kills.py --kills 1000

A turn counts as acknowledged when a result says so; the process writes that down at once. In the end everything is
sent, and each of these turns must be in Postgres once, with its own answer, in its writer's order. Goes on where it
was interrupted: each part has a database and a spool of its own. Prints one line. The exit code is 1 if anything is
wrong.
"""

import argparse
import itertools
import os
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.postgres_cluster import PostgresCluster
from soak.acknowledged import Ledger, Told, counted, told, violations
from soak.calls import PRINCIPAL, call
from soak.evidence import answer_to
from soak.forking import Process, started
from soak.progress import Progress

from perdure.middleware.persistence.history import History
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.wiring import build
from perdure.settings import Settings

PART = 100
"""Kills with one database and one spool."""

WORKERS = 2
THREADS = 4
"""In each of them."""

THINKS = 0.1
"""Seconds between two calls of a thread, at most. Without any, calls come faster than what waits can be sent."""

SHARED = ("shared one", "shared two", "shared three")
"""Conversations into which all threads of both processes write."""

HUNG = 60.0
"""Seconds without a call that comes back."""

PATIENCE = 180.0
"""Seconds in which all that waits must have been sent: leases of the killed have to run out first."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Each between two bounds, in seconds where nothing else is said."""

    between_kills: tuple[float, float] = (0.1, 1.0)
    bytes_between_kills: tuple[float, float] = (0.0, 10_000.0)
    """Bytes by which the ledger of calls grows before the next kill; a line has a hundred."""
    server_up: tuple[float, float] = (5.0, 40.0)
    server_down: tuple[float, float] = (0.0, 8.0)


def kill_again_and_again(kills: int, *, pace: Pace, seed: str) -> tuple[Counter[str], list[str]]:
    """So many kills of workers with one spool. Returns figures and violations."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="perdure-kills-") as temporary, PostgresCluster() as cluster:
        folder = Path(temporary)
        url = cluster.url(cluster.create_database("kills"))
        migrations.apply(url, "kills", lambda _: None)
        began = time.monotonic()
        with _restarted(cluster, pace, random.Random(f"{seed} server")) as servers_killed:
            _kill_workers(kills, folder, url, pace, dice)
        ledger = Ledger(folder / "acknowledged")
        lines = ledger.read()
        ledger.close()
        figures = counted(lines) | Counter(kills=kills, servers=len(servers_killed))
        found = _harm(folder, url, lines, figures)
        figures["seconds"] = int(time.monotonic() - began)
    return figures, [f"seed {seed}: {said}" for said in found]


def _kill_workers(kills: int, folder: Path, url: str, pace: Pace, dice: random.Random) -> None:
    numbers = itertools.count()
    ledger = folder / "acknowledged"
    ledger.touch()

    def start() -> Process:
        return started(_work, folder, url, next(numbers))

    workers = [start() for _ in range(WORKERS)]
    try:
        for _ in range(kills):
            grown = ledger.stat().st_size + dice.uniform(*pace.bytes_between_kills)
            time.sleep(dice.uniform(*pace.between_kills))
            deadline = time.monotonic() + HUNG
            while ledger.stat().st_size < grown:
                if time.monotonic() > deadline or not all(worker.is_alive() for worker in workers):
                    raise AssertionError(f"They hang, or have ended: {(folder / 'stderr').read_text()[-3000:]}")
                time.sleep(0.01)
            index = dice.randrange(WORKERS)
            workers[index].kill()
            workers[index].join()
            workers[index] = start()
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


@contextmanager
def _restarted(cluster: PostgresCluster, pace: Pace, dice: random.Random) -> Iterator[list[float]]:
    """Meanwhile Postgres is killed and started again and again; it runs afterwards. Gives the times it was away."""
    over = threading.Event()
    away: list[float] = []
    failures: list[Exception] = []

    def restart() -> None:
        try:
            while not over.wait(dice.uniform(*pace.server_up)):
                cluster.kill()
                away.append(dice.uniform(*pace.server_down))
                over.wait(away[-1])
                cluster.start()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        yield away
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


def _harm(folder: Path, url: str, lines: list[Told], figures: Counter[str]) -> list[str]:
    found = []
    runtime = build(_settings(folder, url))
    assert runtime.spool is not None
    try:
        left = _waiting(runtime.spool)
        figures["waited in the end"] = left
        deadline = time.monotonic() + PATIENCE
        while left and time.monotonic() < deadline:
            runtime.spool.flush(1.0)
            left = _waiting(runtime.spool)
        if left:
            found.append(f"{left} turns still wait after {PATIENCE:g} s")
        found += [f"in quarantine: {one.reason}" for one in runtime.spool.quarantine()]
        found += [f"a damaged spool was set aside: {path}" for path in runtime.spool.set_aside()]
        found += violations(runtime.engine.store, PRINCIPAL, lines)
        figures["rows"] = sum(line.turns for line in runtime.engine.conversations(limit=100_000))
    finally:
        runtime.spool.close()
        runtime.engine.store.close()
    if (spool := folder / "data" / "spool" / "spool.db").exists():
        with closing(sqlite3.connect(spool)) as connection:
            if (said := connection.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                found.append(f"integrity_check of the spool says {said[:3]}")
    return found


def _waiting(spool: Spool) -> int:
    return sum(line.turns for line in spool.status())


def _settings(folder: Path, url: str) -> Settings:
    return Settings(backend="postgres", database_url=url, data_dir=folder / "data", operation_timeout=2.0)


# ── one worker ───────────────────────────────────────────────────────────────────────────────────────────────


def _work(folder: Path, url: str, worker: int) -> None:
    stderr = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stderr, 2)
    runtime = build(_settings(folder, url))
    assert runtime.spool is not None
    runtime.spool.wake()
    ledger = Ledger(folder / "acknowledged")

    def write(thread: int) -> None:
        name = f"{worker}:{thread}"
        own: str | None = None
        newest: dict[str, str] = {}
        dice = random.Random(name)
        for number in itertools.count():
            time.sleep(dice.uniform(0, THINKS))
            conversation = (*SHARED, own, own)[number % 5]
            prompt = f"{name}:{number}"
            called, meta = call(runtime, prompt, conversation)
            line = told(name, number, prompt, meta)
            ledger.write(line)
            if number % 5 > 2:
                own = line.conversation if number % 50 else None  # a new one from time to time
            _look_at_history(name, called.kept.history, newest.get(line.conversation))
            if line.persisted:
                newest[line.conversation] = prompt

    def fatal(thread: int) -> None:
        try:
            write(thread)
        except BaseException as error:
            os.write(2, f"worker {worker} ended with {error!r}\n".encode())
            os._exit(1)

    for thread in range(THREADS):
        threading.Thread(target=fatal, args=(thread,)).start()


def _look_at_history(writer: str, history: History, own_before: str | None) -> None:
    """Every prompt beside its answer; and what this writer was told is kept, unless the history is said to be cut."""
    for turn in history:
        assert turn.answer is not None, turn
        assert turn.answer.text == answer_to(turn.prompt), turn
    if own_before is not None and history.state.value in ("new", "loaded") and not history.omitted:
        assert own_before in [turn.prompt for turn in history], (writer, own_before, history.state)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20261125)
    given = parser.parse_args()
    progress = Progress("spool_kills", vars(given))
    while (done := progress.counts["kills"]) < given.kills:
        progress.add(*kill_again_and_again(min(PART, given.kills - done), pace=Pace(), seed=f"{given.seed}:{done}"))
    counts = progress.counts
    print(
        f"{counts['kills']:,} workers and {counts['servers']:,} servers killed in {counts['seconds']:,} s: "
        f"{counts['acknowledged']:,} turns acknowledged, {counts['deferred']:,} of them by the spool, "
        f"{counts['not acknowledged']:,} said not to be kept; {len(progress.violations)} violations"
    )
    for violation in progress.violations[:20]:
        print(violation, file=sys.stderr)
    progress.end()
    return 1 if progress.violations else 0


if __name__ == "__main__":
    sys.exit(main())
