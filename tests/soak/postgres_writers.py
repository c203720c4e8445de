"""Many writers on one conversation of one Postgres, from several processes; connections may be lost after COMMIT.

    python tests/soak/postgres_writers.py --processes 4 --threads 16 --turns 250 --cut 0.05

Prints one line with what it found. The exit code is 1 if anything was lost, doubled, torn apart or out of its place.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.cutting_proxy import CuttingProxy
from servers.postgres_cluster import PostgresCluster
from soak.evidence import PRINCIPAL, Evidence, answer_to

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Turn, Window
from perdure.testing.turns import a_turn, answered

CONVERSATION = "crowded"
WINDOW = Window(20, 8_000)
PATIENCE = 600.0
"""Seconds in which all writers must have ended."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    processes: int
    threads: int
    """In each process."""
    turns: int
    """Of each thread."""
    cut: float = 0.0
    """The share of replies that are lost, after what they answer has been committed."""

    @property
    def whole(self) -> int:
        return self.processes * self.threads * self.turns


@dataclass(frozen=True, kw_only=True)
class Found:
    violations: Sequence[str]
    turns: int
    seconds: float
    cuts: int
    refused: Mapping[str, int]
    """How often the store gave up, by its words, so that a writer had to give it the same turn again."""
    deadlocks: int

    def __str__(self) -> str:
        again = sum(self.refused.values())
        return (
            f"{self.turns} turns in {self.seconds:.1f} s ({self.turns / self.seconds:.0f}/s), "
            f"{self.cuts} replies lost, {again} calls made again by their writers, "
            f"{self.deadlocks} deadlocks, {len(self.violations)} violations"
            + "".join(f"; {count} x {words!r}" for words, count in self.refused.items())
        )


def write_all(cluster: PostgresCluster, url: str, crowd: Crowd) -> Found:
    """Let the crowd write into the empty database `url` of `cluster`, and look at what is there afterwards."""
    with ExitStack() as until_the_end:
        address, proxy = url, None
        if crowd.cut:
            proxy = until_the_end.enter_context(CuttingProxy(cluster.port, cut_probability=crowd.cut, seed=20261123))
            address = proxy.url(url)
        began = time.monotonic()
        command = [sys.executable, __file__, f"--threads={crowd.threads}", f"--turns={crowd.turns}"]
        writers = [
            subprocess.Popen([*command, f"--write={number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for number in range(crowd.processes)
        ]
        said = _said(writers, address)
        seconds = time.monotonic() - began
    evidence = Evidence(
        begun={(CONVERSATION, prompt): place for one in said for prompt, place in one["begun"].items()},
        finished={(CONVERSATION, prompt): place for one in said for prompt, place in one["finished"].items()},
    )
    violations = [line for one in said for line in one["violations"]]
    store = PostgresStore(url, timeout=60)
    violations += evidence.violations(store, [CONVERSATION])
    store.close()
    if sorted(evidence.finished.values()) != list(range(1, crowd.whole + 1)):
        violations.append(f"{len(evidence.finished)} places were acknowledged, not 1 to {crowd.whole}")
    database = url.rpartition("/")[2]
    [(messages, last_place)] = cluster.execute(
        "select (select count(*) from chat_messages), (select sum(last_place) from chat_sessions)", database=database
    )
    if (messages, last_place) != (2 * crowd.whole, crowd.whole):
        violations.append(f"{messages} messages and {last_place} places are there, not {2 * crowd.whole}/{crowd.whole}")
    # The backends of the writers are gone, so what they counted is there to be read.
    [(deadlocks,)] = cluster.execute(f"select deadlocks from pg_stat_database where datname = '{database}'")
    if deadlocks:
        violations.append(f"{deadlocks} deadlocks")
    return Found(
        violations=violations,
        turns=crowd.whole,
        seconds=seconds,
        cuts=proxy.cuts if proxy else 0,
        refused=sum((Counter(one["refused"]) for one in said), Counter()),
        deadlocks=deadlocks,
    )


def _said(writers: Sequence["subprocess.Popen[str]"], address: str) -> list[dict[str, Any]]:
    """What each writer found out, told in its last line."""
    try:
        for writer in writers:  # each waits for its address, so that all begin together
            assert writer.stdin
            writer.stdin.write(address + "\n")
            writer.stdin.flush()
        return [json.loads(writer.communicate(timeout=PATIENCE)[0]) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


# ── one writing process ──────────────────────────────────────────────────────────────────────────────────────


class Writing:
    """What all threads of this process have seen."""

    def __init__(self, store: Store) -> None:
        self.begun: dict[str, int] = {}
        self.finished: dict[str, int] = {}
        self.violations: list[str] = []
        self.refused: Counter[str] = Counter()
        """How often the store gave up, by its words; the same turn was then given to it again."""
        self._store = store
        self._lock = threading.Lock()

    def write(self, prompt: str) -> None:
        turn = a_turn(prompt, continuation_id=CONVERSATION, principal=PRINCIPAL)
        begun = self._insist(lambda: self._store.begin(turn, WINDOW))
        self.violations += _violations(prompt, begun.place, begun.history)
        self.begun[prompt] = begun.place
        ending = replace(answered(turn, answer_to(prompt)), place=begun.place)
        finished = self._insist(lambda: self._store.finish(ending))
        self.finished[prompt] = finished.place

    def _insist(self, work: Any) -> Any:
        """Again under the same id until it is acknowledged."""
        while True:
            try:
                return work()
            except StoreUnavailable as error:
                with self._lock:
                    self.refused[re.sub(r"\w+@\S+ |\d+", "…", error.what)] += 1


def _violations(prompt: str, place: int, history: Sequence[Turn]) -> Iterator[str]:
    places = [turn.place or 0 for turn in history]
    if places != sorted(set(places)) or any(earlier >= place for earlier in places):
        yield f"{prompt!r} in place {place} was given the history {places}"
    for turn in history:
        if turn.answer is None or turn.answer.text != answer_to(turn.prompt):
            yield f"{prompt!r} was given {turn.prompt!r} with the answer {turn.answer and turn.answer.text!r}"
    if len(history) > WINDOW.turns:
        yield f"{prompt!r} was given {len(history)} turns"


def _write(process: int, threads: int, turns: int) -> None:
    # As many connections as threads: otherwise the pool, and not the database, would keep them from meeting.
    writing = Writing(PostgresStore(sys.stdin.readline().strip(), max_connections=threads))
    failures: list[str] = []

    def work(thread: int) -> None:
        try:
            for number in range(turns):
                writing.write(f"{process}:{thread}:{number}")
        except Exception as error:
            failures.append(f"writer {process}:{thread} ended with {type(error).__name__}: {error}")

    crowd = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    found = {"begun": writing.begun, "finished": writing.finished, "refused": writing.refused}
    print(json.dumps(found | {"violations": writing.violations + failures}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=16, help="in each process")
    parser.add_argument("--turns", type=int, default=250, help="of each thread")
    parser.add_argument("--cut", type=float, default=0.0, help="share of replies lost after COMMIT, such as 0.05")
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write is not None:
        _write(given.write, given.threads, given.turns)
        return 0
    crowd = Crowd(processes=given.processes, threads=given.threads, turns=given.turns, cut=given.cut)
    with PostgresCluster(max_connections=crowd.processes * crowd.threads * 2 + 20) as cluster:
        url = cluster.url(cluster.create_database("crowd"))
        migrations.apply(url, "crowd", lambda _: None)
        found = write_all(cluster, url, crowd)
    print(found)
    for violation in found.violations[:20]:
        print(violation, file=sys.stderr)
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
