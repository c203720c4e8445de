"""kill -9 of Postgres and of the processes that write to it, at random, while they write.

    python tests/soak/postgres_kills.py --kills 40

Prints one line with what it found. The exit code is 1 if anything that was acknowledged is missing, doubled or out of
its place, or if a place is empty; but a turn that had begun and not ended may go with its server, and end in another
place.
"""

import argparse
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.postgres_cluster import PostgresCluster
from soak.evidence import PRINCIPAL, Evidence, answer_to

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.migrations import postgres as migrations
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered

CONVERSATIONS = ("one", "two")
WINDOW = Window(20, 8_000)
WRITERS = 3
THREADS = 4
PATIENCE = 60.0
"""Seconds after which writers that acknowledge nothing count as hung."""

Victim = Literal["server", "writer"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Found:
    violations: Sequence[str]
    servers_killed: int
    writers_killed: int
    under_way: int
    """Turns that had begun and not ended when a server was killed."""
    begun: int
    finished: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.servers_killed} servers, amid {self.under_way} turns, and {self.writers_killed} writers killed in "
            f"{self.seconds:.1f} s; "
            f"{self.begun} beginnings and {self.finished} ends acknowledged, {len(self.violations)} violations"
        )


def kill_again_and_again(cluster: PostgresCluster, url: str, victims: Sequence[Victim], *, seed: int) -> Found:
    """Kill one victim after the other while others write into the empty database `url` of `cluster`."""
    dice = random.Random(seed)
    numbers = count()
    witness = Witness()
    writers = [Writer(url, next(numbers), witness) for _ in range(WRITERS)]
    violations: list[str] = []
    began = time.monotonic()
    reader = PostgresStore(url, timeout=30)  # open all the time: it has to notice each of these deaths, too
    try:
        for victim in victims:
            witness.wait_for(dice.randint(20, 150))
            if victim == "server":
                with witness.of_turns_under_way():
                    cluster.kill()
                    cluster.start()
            else:
                dice.choice(writers).kill()
                writers = [writer if writer.lives() else Writer(url, next(numbers), witness) for writer in writers]
            # What was acknowledged up to now; more may be added meanwhile.
            violations += [f"after {victim}: {line}" for line in witness.so_far().violations(reader, CONVERSATIONS)]
        witness.wait_for(50)
    finally:
        for writer in writers:
            writer.kill()
    final = witness.so_far()
    violations += final.violations(reader, CONVERSATIONS)
    reader.close()
    return Found(
        violations=violations,
        servers_killed=victims.count("server"),
        writers_killed=victims.count("writer"),
        under_way=len(witness.under_way),
        begun=len(final.begun),
        finished=len(final.finished),
        seconds=time.monotonic() - began,
    )


class Witness:
    """Takes down what writers say was acknowledged to them."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self.under_way: set[tuple[str, str]] = set()
        """Of conversation and prompt: what had begun and not ended when a server was killed."""
        self._more = threading.Condition()

    def hear(self, line: str) -> None:
        with self._more:
            self._said.append(line)
            self._more.notify_all()

    def wait_for(self, more: int) -> None:
        """Until so many more acknowledgements have been heard."""
        with self._more:
            wanted = len(self._said) + more
            if not self._more.wait_for(lambda: len(self._said) >= wanted, PATIENCE):
                raise TimeoutError(f"{len(self._said)} acknowledgements, and no more within {PATIENCE:g} s")

    @contextmanager
    def of_turns_under_way(self) -> Iterator[None]:
        """While a server is killed: a beginning does not wait for the disk, so nothing is promised of it."""
        ended = self.so_far().finished.keys()
        yield
        with self._more:
            self.under_way |= {(name, prompt) for what, name, prompt, _ in self._lines() if what == "begun"} - ended

    def so_far(self) -> Evidence:
        with self._more:
            said = self._lines()
        return Evidence(
            begun={
                (name, prompt): int(place)
                for what, name, prompt, place in said
                if what == "begun" and (name, prompt) not in self.under_way
            },
            finished={(name, prompt): int(place) for what, name, prompt, place in said if what == "finished"},
        )

    def _lines(self) -> list[list[str]]:
        return [line.split("|") for line in self._said]


class Writer:
    """A process that writes until it is killed."""

    def __init__(self, url: str, number: int, witness: Witness) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, f"--write={number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin
        self._process.stdin.write(url + "\n")
        self._process.stdin.flush()
        self._listening = threading.Thread(target=self._listen, args=(witness,))
        self._listening.start()

    def lives(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """kill -9, and take down what it said before."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._listening.join()

    def _listen(self, witness: Witness) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.endswith("\n"):  # the last one may be torn
                witness.hear(line.strip())
        self._process.stdout.close()


# ── one writing process ──────────────────────────────────────────────────────────────────────────────────────


def _write(process: int) -> None:
    store = PostgresStore(sys.stdin.readline().strip(), max_connections=THREADS)
    printing = threading.Lock()

    def acknowledge(*said: object) -> None:
        with printing:
            print(*said, sep="|", flush=True)

    def write(thread: int) -> None:
        for number in count():
            prompt = f"{process}:{thread}:{number}"
            name = CONVERSATIONS[number % 2]
            turn = a_turn(prompt, continuation_id=name, principal=PRINCIPAL)
            begun = _insist(lambda turn=turn: store.begin(turn, WINDOW))
            acknowledge("begun", name, prompt, begun.place)
            ending = replace(answered(turn, answer_to(prompt)), place=begun.place)
            finished = _insist(lambda ending=ending: store.finish(ending))
            acknowledge("finished", name, prompt, finished.place)

    for number in range(THREADS):
        threading.Thread(target=write, args=(number,)).start()


def _insist(work: Callable[[], T]) -> T:
    """Again under the same id until it is acknowledged."""
    while True:
        with suppress(StoreUnavailable):
            return work()
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="of servers and of writers each")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write is not None:
        _write(given.write)
        return 0
    victims: list[Victim] = ["server", "writer"] * given.kills
    random.Random(given.seed).shuffle(victims)
    with PostgresCluster() as cluster:
        url = cluster.url(cluster.create_database("killed"))
        migrations.apply(url, "killed", lambda _: None)
        found = kill_again_and_again(cluster, url, victims, seed=given.seed)
    print(found)
    for violation in found.violations[:20]:
        print(violation, file=sys.stderr)
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
