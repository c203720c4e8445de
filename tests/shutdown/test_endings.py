"""However a process ends, and whatever its store does meanwhile: it ends soon, and nothing acknowledged is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from conftest import MakeDatabase
from shutdown import ending
from shutdown.ending import ENDED_BY_ITSELF, ENDED_FROM_OUTSIDE

from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.ports import Store, SystemClock
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Outcome

StoreIs = Literal["up", "hung", "refused"]

CODES = {
    "sys_exit_is_called": 3,
    "sys_exit_is_called_in_the_loop": 3,
    "main_raises": 1,
    "sigterm": -signal.SIGTERM,
    "sigint": -signal.SIGINT,
}
"""As without perdure; 0 for the others."""

TALKS_TWICE = {
    "the_loop_closes_and_another_is_opened",
    "a_child_is_forked_and_ends_as_a_script",
    "multiprocessing_forks_a_child",
}


@pytest.mark.parametrize("store_is", ["up", "hung", "refused"])
def test_a_process_ends_soon_and_what_it_acknowledged_is_in_the_store_or_waits_for_it(
    store_is: StoreIs, make_database: MakeDatabase, tmp_path: Path
) -> None:
    ways = [*ENDED_BY_ITSELF, *ENDED_FROM_OUTSIDE]
    with database(store_is, make_database) as url:
        environment = {
            **os.environ,
            "PERDURE_BACKEND": "postgres",
            "PERDURE_DATABASE_URL": url,
            "PERDURE_OPERATION_TIMEOUT": "0.5",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        command = [sys.executable, ending.__file__, str(tmp_path), *ways]
        subprocess.run(command, env=environment, check=True, timeout=3 * ending.HANGS)
        store: Store = PostgresStore(url) if store_is == "up" else MemoryStore()
        wrong = [f"{way}: {said}" for way in ways for said in complaints(way, tmp_path / way, store, url)]
        store.close()
    assert wrong == []


def complaints(way: str, folder: Path, store: Store, url: str) -> Iterator[str]:
    ended = json.loads((folder / "ended").read_text())
    if ended["code"] != CODES.get(way, 0):
        yield f"it ended with {ended} and said {(folder / 'stderr').read_text()[-2000:]}"
    for line in (folder / "stdout").read_bytes().splitlines():
        if json.loads(line).get("jsonrpc") != "2.0":
            yield f"it wrote {line!r} to stdout"
    acknowledged = (folder / "acknowledged").read_text().split()
    if len(acknowledged) != ending.CALLS * (2 if way in TALKS_TWICE else 1):
        yield f"only {len(acknowledged)} calls were acknowledged"
    send_what_waits(folder, store, url)
    kept = [
        turn
        for line in store.conversations("local", limit=1000)
        for turn in store.turns("local", line.continuation_id, limit=1000)
    ]
    times = Counter(turn.id for turn in kept if turn.outcome is Outcome.ANSWERED)
    for turn_id in acknowledged:
        if times[turn_id] != 1:
            yield f"the acknowledged turn {turn_id} is there {times[turn_id]} times"
    left_open = {turn.id: turn.outcome for turn in kept}.get((folder / "open").read_text())
    if left_open not in (Outcome.RUNNING, Outcome.CANCELLED):
        yield f"the turn whose tool ran is {left_open}; it said {(folder / 'stderr').read_text()[-2000:]}"


def send_what_waits(folder: Path, store: Store, url: str) -> None:
    """As the next process over the same data does."""
    destination = PostgresStore(url).where
    spool = Spool(
        folder / "data" / "spool",
        destination,
        store,
        LocalFileStore(folder / "data" / "files", "b"),
        SystemClock(),
        max_bytes=10**9,
    )
    spool.flush(30.0)
    assert not any(line.turns or line.quarantined_turns for line in spool.status())
    spool.close()


@contextmanager
def database(store_is: StoreIs, make_database: MakeDatabase) -> Iterator[str]:
    if store_is == "up":
        yield make_database()
        return
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if store_is == "hung":
            taken.listen(1000)  # the system accepts, and nobody answers
        yield f"postgresql://perdure:secret@127.0.0.1:{taken.getsockname()[1]}/away"
