"""A child of a fork has connections of its own, and its parent's are as they were.

Run as a program, this file is the process that forks: `test_postgres_fork.py FUNCTION URL ARGUMENTS`.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.store_bench import at_once
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
PATIENCE = 60
TURNS = 10
CHILDREN = 8


@pytest.mark.parametrize("end", ["os._exit", "sys.exit"])
def test_a_child_uses_connections_of_its_own_and_its_end_leaves_its_parents_alone(database_url: str, end: str) -> None:
    """Forked while four connections are idle."""
    said = run(fork_while_idle, database_url, end)
    assert said["of the parent"] == said["of the parent afterwards"]
    assert len(said["of the parent"]) == 4
    assert not set(said["of the child"]) & set(said["of the parent"])
    assert len(said["of the child"]) == 1
    assert prompts_in(database_url) == {"parent", "child", "parent afterwards"}


def test_a_child_that_is_forked_while_another_thread_is_in_a_call_is_not_left_hanging(database_url: str) -> None:
    said = run(fork_while_in_use, database_url)
    assert said["place of the call that was under way"] == 2
    assert said["reconnected"] is False
    assert prompts_in(database_url) == {"first", "child", "under way", "parent afterwards"}


def test_a_child_may_use_all_connections_though_its_parent_used_all_when_it_was_forked(database_url: str) -> None:
    assert run(fork_while_all_are_in_use, database_url) == "written"


def test_eight_children_that_write_at_once_and_their_parent_lose_nothing(database_url: str) -> None:
    run(write_from_children, database_url)
    store = PostgresStore(database_url)
    turns = store.turns("alice", "c", limit=1000)
    store.close()
    assert [turn.place for turn in turns] == list(range(1, (CHILDREN + 1) * TURNS + 2))
    wanted = {f"{who}:{number}" for who in range(CHILDREN + 1) for number in range(TURNS)}
    assert {turn.prompt for turn in turns} == wanted | {"before"}
    assert all(turn.answer and turn.answer.text == f"answer to {turn.prompt}" for turn in turns)


def prompts_in(url: str) -> set[str]:
    store = PostgresStore(url)
    found = {turn.prompt for name in ("c", "d") for turn in store.turns("alice", name, limit=1000)}
    store.close()
    return found


def run(function: Callable[..., object], *arguments: object) -> Any:
    """What `function` returns in a process of its own, which leaves nothing on stderr."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", __file__, function.__name__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


# ── the other processes ──────────────────────────────────────────────────────────────────────────────────────


def keep(store: PostgresStore, prompt: str, name: str = "c") -> int:
    turn = a_turn(prompt, continuation_id=name)
    store.begin(turn, WINDOW)
    return store.finish(answered(turn, f"answer to {prompt}")).place


def fork_while_idle(url: str, end: str) -> dict[str, list[int]]:
    store = PostgresStore(url)
    open_four(url, store, "parent")
    of_the_parent = backends(url)

    def in_the_child() -> None:
        keep(store, "child")
        keep(store, "child")
        say(backends(url) - of_the_parent)

    of_the_child = forked(in_the_child, end)
    at_once(lambda _: keep(store, "parent afterwards"), range(4))
    return {
        "of the parent": sorted(of_the_parent),
        "of the child": of_the_child,
        "of the parent afterwards": sorted(backends(url)),
    }


def fork_while_in_use(url: str) -> dict[str, object]:
    store = PostgresStore(url, timeout=20)
    keep(store, "first")
    places: list[int] = []
    holder = psycopg.connect(url)  # not in a `with`, which the child would leave as well
    holder.execute("select from chat_sessions for update")
    calling = threading.Thread(target=lambda: places.append(keep(store, "under way")))
    calling.start()
    wait_for_waiting(holder, 1)
    before = backends(url)
    forked(lambda: keep(store, "child", "d") and None, "sys.exit")
    holder.close()
    calling.join()
    keep(store, "parent afterwards")
    return {"place of the call that was under way": places[0], "reconnected": backends(url) != before}


def fork_while_all_are_in_use(url: str) -> str:
    store = PostgresStore(url, timeout=20, max_connections=2)
    keep(store, "first")
    with psycopg.connect(url) as holder:
        holder.execute("select from chat_sessions for update")
        calling = [threading.Thread(target=keep, args=(store, f"under way {n}")) for n in range(2)]
        for call in calling:
            call.start()
        wait_for_waiting(holder, 2)
        forked(lambda: at_once(lambda n: keep(store, f"{n}", "d"), range(4)) and None, "os._exit")
        holder.rollback()
    for call in calling:
        call.join()
    return "written"


def write_from_children(url: str) -> str:
    store = PostgresStore(url, max_connections=2)
    keep(store, "before")

    def write(who: int) -> None:
        for number in range(TURNS):
            keep(store, f"{who}:{number}")

    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=write, args=(who,)) for who in range(CHILDREN)]
    for child in children:
        child.start()
    write(CHILDREN)
    for child in children:
        child.join()
        if child.exitcode:
            raise ChildProcessError(f"a child ended with {child.exitcode}")
    return "written"


def open_four(url: str, store: PostgresStore, prompt: str) -> None:
    """Let four callers at once keep `prompt`, each on a connection of its own."""
    keep(store, prompt)
    with psycopg.connect(url) as holder:
        holder.execute("select from chat_sessions for update")
        calling = [threading.Thread(target=keep, args=(store, prompt)) for _ in range(4)]
        for call in calling:
            call.start()
        wait_for_waiting(holder, 4)
        holder.rollback()
    for call in calling:
        call.join()


def wait_for_waiting(connection: psycopg.Connection, number: int) -> None:
    until = time.monotonic() + 10
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while connection.execute(waiting).fetchone() != (number,):
        if time.monotonic() > until:
            raise TimeoutError(f"not {number} calls wait")
        time.sleep(0.005)
        connection.execute("select pg_stat_clear_snapshot()")  # or a transaction sees the same all the time


def backends(url: str) -> set[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select pid from pg_stat_activity where datname = current_database() and application_name = 'perdure'"
        ).fetchall()
    return {pid for (pid,) in rows}


def forked(work: Callable[[], None], end: str) -> list[int]:
    """What a child says that does `work` and ends as told."""
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(its, 1)
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        if end == "os._exit":
            os._exit(status)
        os.close(ours)
        sys.exit(status)  # with all that an interpreter does at its end
    os.close(its)
    with open(ours) as said:
        heard = said.read()
    if status := os.waitpid(child, 0)[1]:
        raise ChildProcessError(f"the child ended with {status}")
    return json.loads(heard) if heard else []


def say(pids: set[int]) -> None:
    print(json.dumps(sorted(pids)))


def main() -> None:
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
