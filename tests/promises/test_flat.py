"""Promise 6, Flat: the cost of a turn does not grow with the conversation. Steps are counted, never seconds."""

import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
from sql_parameters import parameters_of

from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.sql_files import named_queries
from perdure.middleware.persistence.stores import memory
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Answer, Outcome, StoredFile, Turn, Window
from perdure.testing.turns import a_turn, answered, ended

SHORT, LONG, FAILURES, FILES = 10, 20_000, 5_000, 2_000
WINDOW = Window(turns=5, tokens=8_000)

OPERATIONS: dict[str, Callable[[Store, str], object]] = {
    "begin": lambda store, name: store.begin(a_turn("q", continuation_id=name), WINDOW),
    "begin again": lambda store, name: [store.begin(turn, WINDOW) for turn in store.turns("alice", name, limit=1)],
    "finish": lambda store, name: _finish(store, answered(a_turn("q", continuation_id=name), "a")),
    "finish unbegun": lambda store, name: store.finish(answered(a_turn("q", continuation_id=name), "a")),
    "finish with a file": lambda store, name: store.finish(_with_a_file(name, "new.txt")),
    "fail": lambda store, name: store.finish(ended(a_turn("q", continuation_id=name), Outcome.FAILED)),
    "first page": lambda store, name: store.turns("alice", name, limit=5),
    "last page": lambda store, name: store.turns("alice", name, after=_turns_of(name) - 5, limit=5),
    "line in the list": lambda store, name: store.conversations("alice", name),
}


@dataclass
class Meter:
    """Counts what a store does: instructions of SQLite's virtual machine, or lines of Python."""

    steps: int = 0

    def step(self, *_: object) -> int:
        self.steps += 1
        return 0

    def of(self, work: Callable[[], object]) -> int:
        before = self.steps
        work()
        return self.steps - before


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SqliteStore, Meter]]:
    """A store with conversations of all lengths, each of its connections metered."""
    meter = Meter()
    connect = sqlite3.connect

    def metered_connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_progress_handler(meter.step, 1)
        return connection

    path = tmp_path_factory.mktemp("flat") / "perdure.db"
    quick = SqliteStore(path)
    _fill(quick, threads=32)
    quick.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", metered_connect)
        store = SqliteStore(path)
        for operation in OPERATIONS.values():
            operation(store, "warm")  # connections are open and statements prepared from here on
        yield store, meter
        store.close()


@pytest.fixture(scope="module")
def in_memory() -> MemoryStore:
    store = MemoryStore()
    _fill(store, threads=1)
    return store


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("conversation", ["long", "failing", "filed"])
def test_sqlite_takes_as_many_steps_in_a_long_conversation_as_in_a_short_one(
    sqlite: tuple[SqliteStore, Meter], operation: str, conversation: str
) -> None:
    store, meter = sqlite
    work = OPERATIONS[operation]
    for name in ("short", conversation):
        work(store, name)  # what a window says is read once; which turns stand in it, each time
    short = meter.of(lambda: work(store, "short"))
    long = meter.of(lambda: work(store, conversation))
    assert short > 0
    assert long <= short * 1.1


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("conversation", ["long", "failing", "filed"])
def test_memory_runs_as_many_lines_in_a_long_conversation_as_in_a_short_one(
    in_memory: MemoryStore, operation: str, conversation: str
) -> None:
    work = OPERATIONS[operation]
    meter = Meter()
    with _lines_counted(meter, memory.__file__):
        short = meter.of(lambda: work(in_memory, "short"))
        long = meter.of(lambda: work(in_memory, conversation))
    assert short > 0
    assert long <= short * 1.1


def test_the_meter_sees_a_read_that_is_not_flat(sqlite: tuple[SqliteStore, Meter]) -> None:
    store, meter = sqlite
    few = meter.of(lambda: store.turns("alice", "long", limit=10))
    many = meter.of(lambda: store.turns("alice", "long", limit=1000))
    assert many > few * 50


@pytest.mark.parametrize(
    "name",
    [
        "find_turn",
        "find_session",
        "take_place",
        "add_answer",
        "window",
        "turns_between",
        "read_turns",
        "newest_version",
        "find_file",
    ],
)
def test_no_query_of_a_turn_scans_a_table(sqlite: tuple[SqliteStore, Meter], name: str) -> None:
    query = named_queries("sqlite/queries.sql")[name]
    connection = sqlite3.connect(f"{sqlite[0].path.as_uri()}?mode=ro", uri=True)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters_of(query, 1)).fetchall()
    connection.close()
    steps = [step for *_, step in plan]
    assert any(step.startswith("SEARCH") for step in steps)
    # What may be scanned is the window, once the index has cut it to its budget: a subquery, or `newest` by its alias.
    scanned = [step for step in steps if step.startswith("SCAN")]
    assert all(re.fullmatch(r"SCAN (\(subquery-\d+\)|newest|n)", step) for step in scanned), steps


def test_the_window_is_read_from_its_index_alone(sqlite: tuple[SqliteStore, Meter]) -> None:
    wanted = {"session_id": 1, "place": 1, "turns": 1}
    with closing(sqlite3.connect(f"{sqlite[0].path.as_uri()}?mode=ro", uri=True)) as connection:
        window = named_queries("sqlite/queries.sql")["window"]
        ((*_, step),) = connection.execute(f"EXPLAIN QUERY PLAN {window}", wanted).fetchall()
    assert "USING COVERING INDEX chat_messages_window" in step


def test_history_reads_the_window_from_its_index_without_sorting_the_conversation(
    sqlite: tuple[SqliteStore, Meter],
) -> None:
    store, meter = sqlite
    history = store.begin(a_turn("q", continuation_id="failing"), WINDOW).history
    assert [turn.outcome for turn in history] == [Outcome.ANSWERED] * WINDOW.turns
    steps = meter.of(lambda: store.begin(a_turn("q", continuation_id="failing"), WINDOW))
    assert steps < FAILURES


def _finish(store: Store, turn: Turn) -> None:
    store.begin(turn, WINDOW)
    store.finish(turn)


def _fill(store: Store, *, threads: int) -> None:
    def keep(name: str, outcome: Outcome) -> None:
        store.finish(ended(a_turn("q", continuation_id=name), outcome, Answer(text="a")))

    with ThreadPoolExecutor(threads) as pool:
        for name, outcome, count in (
            ("warm", Outcome.ANSWERED, SHORT),
            ("short", Outcome.ANSWERED, SHORT),
            ("long", Outcome.ANSWERED, LONG),
            ("failing", Outcome.ANSWERED, SHORT),
            ("failing", Outcome.FAILED, FAILURES),
        ):
            for kept in [pool.submit(keep, name, outcome) for _ in range(count)]:
                kept.result()
        for kept in [pool.submit(store.finish, _with_a_file("filed", f"{n}.txt")) for n in range(FILES)]:
            kept.result()


def _with_a_file(conversation: str, name: str) -> Turn:
    file = StoredFile(
        key=f"alice/{'0' * 64}/{name}", bucket="files", name=name, sha256="0" * 64, size=1, media_type="text/plain"
    )
    return answered(a_turn("q", continuation_id=conversation, files=(file,)), "a")


def _turns_of(name: str) -> int:
    return {"warm": SHORT, "short": SHORT, "long": LONG, "failing": SHORT + FAILURES, "filed": FILES}[name]


@contextmanager
def _lines_counted(meter: Meter, file: str) -> Iterator[None]:
    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "line":
            meter.step()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
