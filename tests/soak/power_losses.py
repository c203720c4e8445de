"""Power losses of the SQLite store or the spool: what was not synced is dropped at a random moment, amid writes of
several threads.

    python tests/soak/power_losses.py store --losses 1000 [--synchronous NORMAL]
    python tests/soak/power_losses.py spool --losses 1000 [--synchronous NORMAL]

They write themselves, through a VFS of apsw. After each loss the database is opened with Python's own `sqlite3`, on
what a disk would hold: every acknowledged turn must be there, once, whole, in its place, and the database sound.
Prints one line. The exit code is 1 if that does not hold, or if no write was dropped. With `--synchronous NORMAL` it
does not get the syncs it asks for: the control, which must lose turns.
"""

import argparse
import random
import re
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from soak.apsw_as_sqlite3 import Connection
from soak.losing_disk import LosingDisk, Way
from soak.power_subjects import SUBJECTS, Subject
from soak.progress import Progress

from perdure.errors import StoreUnavailable

ON_ONE_DATABASE = 20
"""Losses, one after the other; then a new database is made, amid whose making power may be lost too."""

THREADS = 3


def lose_power(
    losses: int, subject: Subject, *, seed: str, synchronous: str | None = None
) -> tuple[Counter[str], list[str]]:
    """So many losses of one database; it ends with the first that does harm. Returns figures and violations."""
    dice = random.Random(seed)
    figures: Counter[str] = Counter()
    violations: list[str] = []
    with tempfile.TemporaryDirectory(prefix="perdure-power-") as temporary:
        folder = Path(temporary) / "life"
        folder.mkdir()
        while figures["losses"] < losses and not violations:
            most = 60 if not figures["losses"] and dice.random() < 0.5 else 600
            disk = LosingDisk(folder, off_at=dice.randint(1, most))
            try:
                _write_until_it_is_off(subject, disk, dice, synchronous)
                survivors = disk.survivors(dice.choice(list(Way)), dice)
            finally:
                disk.close()
            figures.update(losses=1, dropped=disk.dropped)
            shutil.rmtree(folder)
            _lay(folder, survivors)
            # On the copy the database is repaired and closed well; itself it may lose power again amid its repair.
            looked_at = folder if dice.random() < 0.5 else Path(shutil.copytree(folder, folder.with_name("copy")))
            violations += [f"seed {seed}, loss {figures['losses']}: {said}" for said in _harm(subject, looked_at)]
            shutil.rmtree(folder.with_name("copy"), ignore_errors=True)
    figures["acknowledged"] = subject.acknowledged
    return figures, violations


def _write_until_it_is_off(subject: Subject, disk: LosingDisk, dice: random.Random, synchronous: str | None) -> None:
    # The checkpoints of a long life, in a short one: otherwise one comes after each 1,000 pages.
    pages = dice.choice((1000, 20))

    def connect(address: str, *, timeout: float, **_: object) -> Connection:
        connection = Connection(address, disk.vfs, busy_seconds=timeout, synchronous=synchronous)
        connection.apsw.wal_autocheckpoint(pages)
        return connection

    failures: list[BaseException] = []

    def work(prompts: list[str]) -> None:
        try:
            for prompt in prompts:
                subject.keep(prompt)
        except BaseException as error:
            if not disk.is_off or not isinstance(error, StoreUnavailable):
                failures.append(error)

    while not disk.is_off and not failures:
        subject.start(disk.folder, connect)
        threads = [
            threading.Thread(target=work, args=(_prompts(dice, f"{disk.vfs}:{number}"),)) for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with suppress(sqlite3.OperationalError):
            subject.stop()
    if failures:
        raise failures[0]


def _prompts(dice: random.Random, name: str) -> list[str]:
    sizes = [int(10 ** dice.uniform(0, 4.5)) for _ in range(dice.randint(1, 20))]
    return [f"{name}:{dice.getrandbits(64)}:" + "x" * size for size in sizes]


def _lay(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _harm(subject: Subject, folder: Path) -> Iterator[str]:
    yield from subject.violations(folder)
    with closing(sqlite3.connect(folder / subject.database)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
        if found != [("ok",)]:
            yield f"integrity_check says {found[:3]}"


def _shortened(violation: str) -> str:
    return re.sub("x{10,}", "xx…", violation)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--losses", type=int, default=1000)
    parser.add_argument("--synchronous", choices=["NORMAL"], help="what it gets whatever it asks for")
    parser.add_argument("--seed", type=int, default=20261125)
    given = parser.parse_args()
    progress = Progress(f"power_losses_{given.subject}", vars(given))
    while progress.counts["losses"] < given.losses:
        began = time.monotonic()
        figures, violations = lose_power(
            min(ON_ONE_DATABASE, given.losses - progress.counts["losses"]),
            SUBJECTS[given.subject](),
            seed=f"{given.seed}:{progress.counts['losses']}",
            synchronous=given.synchronous,
        )
        progress.add(figures | {"seconds": time.monotonic() - began}, violations)
    counts, violations = progress.counts, progress.violations
    print(
        f"{counts['losses']:,} power losses of the {given.subject} in {counts['seconds']:.0f} s, synchronous "
        f"{given.synchronous or 'as it asks'}: {counts['dropped']:,} unsynced writes dropped; "
        f"{counts['acknowledged']:,} ended turns acknowledged, {len(violations)} violations"
    )
    for violation in violations[:20]:
        print(_shortened(violation), file=sys.stderr)
    if not counts["dropped"]:
        print("No write was dropped: that was no test.", file=sys.stderr)
    progress.end()
    return 1 if violations or not counts["dropped"] else 0


if __name__ == "__main__":
    sys.exit(main())
