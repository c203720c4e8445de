"""What befalls a SQLite database: each time a `StoreUnavailable` that names the file and a remedy, and no harm done.

Run as a program, this file is the other process of a test: `test_sqlite_faults.py FUNCTION ARGUMENTS`.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from perdure.errors import StoreTimeout, StoreUnavailable
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)
PATIENCE = 20.0
"""Seconds after which a call that has not come back counts as hung."""

OPERATIONS: dict[str, Callable[[SqliteStore], object]] = {
    "begin": lambda store: store.begin(a_turn("more", continuation_id="c"), WINDOW),
    "finish": lambda store: store.finish(answered(a_turn("more", continuation_id="c"))),
    "turns": lambda store: store.turns("alice", "c"),
    "conversations": lambda store: store.conversations("alice"),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "perdure.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """A store that keeps two turns, open."""
    made = SqliteStore(path)
    keep(made, "one", "two")
    yield made
    made.close()


def keep(store: SqliteStore, *prompts: str) -> None:
    for prompt in prompts:
        turn = a_turn(prompt, continuation_id="c")
        store.begin(turn, WINDOW)
        store.finish(answered(turn, f"answer to {prompt}"))


def prompts_in(path: Path) -> list[str]:
    """What somebody else, who comes now, finds there; every answer beside its prompt."""
    store = SqliteStore(path)
    turns = store.turns("alice", "c", limit=10_000)
    store.close()
    assert [turn.place for turn in turns] == list(range(1, len(turns) + 1))
    assert all(turn.answer is None or turn.answer.text == f"answer to {turn.prompt}" for turn in turns)
    return [turn.prompt for turn in turns]


def refusal(store: SqliteStore, operation: str) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        OPERATIONS[operation](store)
    return caught.value


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────


@every_operation
def test_a_file_that_is_no_database_is_named_and_left_as_it_is(tmp_path: Path, operation: str) -> None:
    path = tmp_path / "perdure.db"
    path.write_bytes(b"Dear diary, " * 1000)
    error = refusal(SqliteStore(path), operation)
    assert str(path) in error.what
    assert "move it aside" in error.remedy
    assert path.read_bytes() == b"Dear diary, " * 1000


@every_operation
def test_a_database_of_somebody_elses_is_named_and_left_as_it_is(tmp_path: Path, operation: str) -> None:
    path = tmp_path / "perdure.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    before = path.read_bytes()
    store = SqliteStore(path)
    error = refusal(store, operation)
    store.close()
    assert f"{path} is there already and is not one of perdure's" in error.what
    assert "PERDURE_DATA_DIR" in error.remedy
    assert path.read_bytes() == before


@every_operation
def test_a_directory_in_its_place_is_named(tmp_path: Path, operation: str) -> None:
    path = tmp_path / "perdure.db"
    path.mkdir()
    error = refusal(SqliteStore(path), operation)
    assert f"{path} is a directory" in error.what
    assert error.remedy


@every_operation
def test_a_damaged_database_is_named_and_left_as_it_is(store: SqliteStore, path: Path, operation: str) -> None:
    store.close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    before = path.read_bytes()
    error = refusal(store, operation)
    assert str(path) in error.what
    assert "damaged" in error.what
    assert error.remedy
    store.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("operation", ["begin", "turns"])
def test_a_turn_that_cannot_be_decoded_is_not_left_out_of_a_history(
    store: SqliteStore, path: Path, operation: str
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE chat_messages SET body = '{\"value\":' WHERE turn_seq = 1 AND part = 1")
    error = refusal(store, operation)
    assert str(path) in error.what
    assert error.remedy


def test_the_remedy_for_a_damaged_database_works_without_a_restart(store: SqliteStore, path: Path) -> None:
    store.close()
    path.write_bytes(b"damaged " * 5000)
    refusal(store, "begin")
    path.rename(path.with_name("aside.db"))
    keep(store, "a new start")
    assert prompts_in(path) == ["a new start"]
    assert path.with_name("aside.db").read_bytes() == b"damaged " * 5000


@every_operation
def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path, operation: str) -> None:
    path = tmp_path / "perdure.db"
    path.mkdir()
    error = refusal(SqliteStore(path), operation)
    assert str(path) in error.what
    assert error.remedy


def test_a_replaced_file_is_not_written_to_any_more(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    other = SqliteStore(backup)
    keep(other, "from the backup")
    other.close()
    path.parent.rename(tmp_path / "moved")
    path.parent.mkdir()
    backup.rename(path)
    keep(store, "after")
    assert [turn.prompt for turn in store.turns("alice", "c")] == ["from the backup", "after"]
    assert prompts_in(path) == ["from the backup", "after"]
    assert prompts_in(tmp_path / "moved" / "perdure.db") == ["one", "two"]


def test_what_is_acknowledged_after_the_folder_was_removed_is_in_the_new_one(store: SqliteStore, path: Path) -> None:
    shutil.rmtree(path.parent)
    keep(store, "after")
    assert [turn.prompt for turn in store.turns("alice", "c")] == ["after"]
    assert prompts_in(path) == ["after"]


def test_after_the_folder_was_removed_processes_still_take_turns(path: Path) -> None:
    clock = Gate()
    store = SqliteStore(path, clock)
    keep(store, "before")
    shutil.rmtree(path.parent)
    with held(path) as held_by_another:
        clock.shut()
        writing = Result(lambda: keep(store, "after"))
        assert not clock.entered.wait(0.5), "wrote while another process had its turn"
        held_by_another.close()
        assert clock.entered.wait(PATIENCE)
        clock.open()
        assert writing() is None
    store.close()
    assert prompts_in(path) == ["after"]


# ── permission and room ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def open_to_others() -> Iterator[Path]:
    """A folder that another user can get at, with a database of two turns in `data`."""
    with tempfile.TemporaryDirectory(prefix="perdure-faults-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = SqliteStore(folder / "data" / "perdure.db")
        keep(made, "one", "two")
        made.close()
        yield folder


@pytest.mark.parametrize("folder_mode", [0o755, 0o700], ids=["readable", "closed"])
@every_operation
def test_a_database_of_another_user_is_named(open_to_others: Path, operation: str, folder_mode: int) -> None:
    path = open_to_others / "data" / "perdure.db"
    path.chmod(0o644)
    path.parent.chmod(folder_mode)  # for another user: to read, or not even that
    before = path.read_bytes()
    what, remedy = run(use_as_somebody_else, path, operation)
    assert str(path) in what
    assert f"write access to {path.parent}" in remedy
    path.parent.chmod(0o700)
    path.chmod(0o600)
    assert path.read_bytes() == before


def test_a_data_directory_that_may_not_be_made_is_named(open_to_others: Path) -> None:
    for operation in ("begin", "finish"):
        what, remedy = run(use_as_somebody_else, open_to_others / "new" / "perdure.db", operation)
        assert str(open_to_others / "new") in what
        assert "PERDURE_DATA_DIR" in remedy


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for operation in ("begin", "finish"):
        error = refusal(SqliteStore(tmp_path / "file" / "data" / "perdure.db"), operation)
        assert str(tmp_path / "file" / "data") in error.what
        assert "PERDURE_DATA_DIR" in error.remedy
    assert (tmp_path / "file").read_text() == "not a folder"


def test_files_are_for_their_owner_alone(store: SqliteStore, path: Path) -> None:
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()} == {
        file.name: oct(0o600) for file in path.parent.iterdir()
    }


def test_a_full_disk_is_named_keeps_what_was_there_and_is_forgotten_once_there_is_room(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    connect, connections = sqlite3.connect, []

    def connect_to_a_small_disk(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 40")
        connections.append(connection)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_to_a_small_disk)
    error = None
    acknowledged = ["one", "two"]
    while error is None:
        prompt = f"{len(acknowledged)} " * 5000
        try:
            keep(store, prompt)
            acknowledged.append(prompt)
        except StoreUnavailable as full:
            error = full
    assert str(path) in error.what
    assert "full" in error.what
    assert "space" in error.remedy
    begun = [turn.prompt for turn in store.turns("alice", "c") if turn.answer is None]
    assert [turn.prompt for turn in store.turns("alice", "c") if turn.answer] == acknowledged
    for connection in connections:
        connection.execute("PRAGMA max_page_count = 1000000")
    keep(store, "there is room again")
    monkeypatch.undo()
    assert prompts_in(path) == [*acknowledged, *begun, "there is room again"]


# ── a power loss ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_write_that_was_cut_short_is_taken_back_by_one_who_only_reads(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    store.close()
    after = tmp_path / "after" / "perdure.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # as before the first turn, when a database is made
        connection.execute("PRAGMA cache_size = 1")  # so that the file is written to before the end
        connection.execute("BEGIN")
        connection.execute("UPDATE chat_messages SET content = 'torn'")
        connection.execute("CREATE TABLE filling AS SELECT zeroblob(1000000)")
        shutil.copytree(path.parent, after.parent)
        connection.execute("ROLLBACK")
    assert after.with_name("perdure.db-journal").stat().st_size
    assert prompts_in(after) == ["one", "two"]


# ── others who use it ────────────────────────────────────────────────────────────────────────────────────────


def test_a_database_that_another_program_has_locked_is_named_and_can_be_read(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as browser:
        browser.execute("BEGIN IMMEDIATE")
        error = refusal(store, "begin")
        assert str(path) in error.what
        assert "locked by another program" in error.what
        assert error.remedy
        assert len(store.turns("alice", "c")) == 2
        browser.execute("ROLLBACK")
    keep(store, "afterwards")
    assert prompts_in(path) == ["one", "two", "afterwards"]


def test_a_writer_that_hangs_in_its_turn_holds_up_the_others_only_so_long(store: SqliteStore, path: Path) -> None:
    with held(path) as hung:
        beginning = Result(lambda: refusal(store, "begin"))
        try:
            error = beginning(10)
        finally:
            hung.close()  # a call that hangs all the same ends now
            with suppress(BaseException):
                beginning()
        assert isinstance(error, StoreTimeout)
        assert str(path) in error.what
        assert "process" in error.remedy
        assert "Remedy" not in error.what
    keep(store, "afterwards")
    assert prompts_in(path)[-1] == "afterwards"


def test_a_write_that_the_database_refuses_does_not_take_its_neighbours_along(store: SqliteStore, path: Path) -> None:
    good = [answered(a_turn(f"good {number}", continuation_id="c"), f"answer to good {number}") for number in range(6)]
    bad = replace(a_turn("bad", continuation_id="c"), continuation_id="longer than an id may be " * 10)
    with held(path) as busy:
        waiting = [Result(lambda turn=turn: store.finish(turn)) for turn in (*good[:3], bad, *good[3:])]
        wait_until_inside(7)
        busy.close()
        refused = []
        for turn, result in zip((*good[:3], bad, *good[3:]), waiting, strict=True):
            try:
                result()
            except Exception:
                refused.append(turn.prompt)
    assert refused == ["bad"]
    assert sorted(prompts_in(path)) == sorted(["one", "two", *(turn.prompt for turn in good)])


@pytest.mark.parametrize(
    "broken", [{"principal": "\ud800"}, {"metadata": {"n": 10**5000}}], ids=["principal", "number"]
)
def test_a_turn_that_cannot_be_written_down_is_not_blamed_on_the_database(
    store: SqliteStore, path: Path, broken: dict[str, Any]
) -> None:
    with pytest.raises(Exception) as caught:
        store.begin(a_turn("broken", continuation_id="c", **broken), WINDOW)
    assert "did not write" not in str(caught.value)
    assert "remove the row" not in str(caught.value)
    assert prompts_in(path) == ["one", "two"]


def test_an_interrupted_wait_does_not_stop_those_who_come_after() -> None:
    assert run(interrupt_a_waiting_write) == "written"


def test_threads_that_have_ended_leave_no_connection_behind(store: SqliteStore) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    Result(lambda: store.turns("alice", "c"))()
    before = descriptors()
    for _ in range(20):
        Result(lambda: store.turns("alice", "c"))()
    assert descriptors() <= before + 3


# ── fork ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["together", "parent_first", "child_first"])
def test_parent_and_child_of_a_fork_both_write_and_nothing_is_lost(path: Path, order: str) -> None:
    acknowledged = run(fork_and_write, path, order)
    assert len(acknowledged) == 1 + 2 * 20
    assert sorted(prompts_in(path)) == sorted(acknowledged)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_child_that_is_forked_in_the_middle_of_a_write_can_write_too(path: Path) -> None:
    acknowledged = run(fork_in_the_middle_of_a_write, path)
    assert sorted(acknowledged) == ["of the child", "of the parent"]
    assert sorted(prompts_in(path)) == sorted(["before", *acknowledged])


def test_a_child_that_is_forked_while_writes_hang_is_not_left_hanging(path: Path) -> None:
    """A fork cannot wait for ever: what then may not be used in the child must say so there."""
    assert run(fork_while_writes_hang, path) == "the child was answered"


def test_a_child_does_not_hold_the_turn_of_a_parent_that_was_killed(store: SqliteStore, path: Path) -> None:
    with program(be_killed_in_a_write_and_leave_a_child, path) as parent:
        assert parent.stdout
        assert parent.stdin
        assert parent.stdout.readline() == "the child lives\n"
        assert parent.wait(PATIENCE) == -signal.SIGKILL
        try:
            Result(lambda: keep(store, "after the kill"))(5)
        finally:
            parent.stdin.close()  # the child ends now
    assert prompts_in(path)[-1] == "after the kill"


# ── threads and processes of these tests ─────────────────────────────────────────────────────────────────────


class Result:
    """Of work that goes on in a thread of its own."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._value: object = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __call__(self, timeout: float = PATIENCE) -> object:
        """What the work returned or raised.

        Raises:
            TimeoutError: It still goes on.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"has not come back within {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error


@contextmanager
def held(path: Path) -> Iterator["AnotherProcess"]:
    """The turn to write, held by another process until the end, or until what is given is closed."""
    path.parent.mkdir(exist_ok=True)
    another = AnotherProcess(path.with_name(path.name + "-writer"))
    try:
        yield another
    finally:
        another.close()


class AnotherProcess:
    def __init__(self, path: Path) -> None:
        hold = (
            "import fcntl, sys\n"
            "with open(sys.argv[1], 'wb') as file:\n"
            "    fcntl.lockf(file, fcntl.LOCK_EX)\n"
            "    print('held', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "held\n"

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate()


def wait_until_inside(threads: int) -> None:
    """Until so many threads are somewhere inside the store. Threads that wait give no other sign of it."""

    def is_inside(frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_filename.endswith("group_writer.py"):
                return True
            frame = frame.f_back
        return False

    until = time.monotonic() + PATIENCE
    while sum(map(is_inside, sys._current_frames().values())) < threads:
        assert time.monotonic() < until, f"fewer than {threads} threads came to the store"
        time.sleep(0.002)


@contextmanager
def program(function: Callable[..., object], *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, function.__name__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def run(function: Callable[..., object], *arguments: object) -> Any:
    """What `function` returns in a process of its own."""
    with program(function, *arguments) as process:
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(printed.splitlines()[-1])


# ── the other processes ──────────────────────────────────────────────────────────────────────────────────────


def use_as_somebody_else(path: str, operation: str) -> list[str]:
    store = SqliteStore(Path(path))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    else:
        # Without root there is nobody else to be: then the owner may do no more than another user.
        for thing in (Path(path), Path(path).parent, Path(path).parent.parent):
            if thing.exists():
                allowed = thing.stat().st_mode & 0o007
                thing.chmod(allowed << 6)
    try:
        OPERATIONS[operation](store)
    except StoreUnavailable as error:
        return [error.what, error.remedy]
    return ["no error", ""]


def interrupt_a_waiting_write() -> str:
    """The main thread waits for its turn to write and is interrupted, as by Ctrl-C. Then another thread writes."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Gate()
        store = SqliteStore(Path(folder) / "perdure.db", clock)
        keep(store, "before")
        clock.shut()
        leading = Result(lambda: keep(store, "leading"))
        clock.entered.wait()

        def interrupt() -> None:
            wait_until_inside(2)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupting = Result(interrupt)
        with suppress(KeyboardInterrupt):
            keep(store, "interrupted")
        clock.open()
        interrupting()
        leading(5)
        Result(lambda: keep(store, "after"))(5)
        return "written"


def fork_and_write(path: str, order: str) -> list[str]:
    """Parent and child write 20 turns each, at the same time or one after the end of the other."""
    store = SqliteStore(Path(path))
    keep(store, "before")
    parents, childs = ([f"{who} {number}" for number in range(20)] for who in ("parent", "child"))
    opened, has_opened = os.pipe()
    parent_done, parent_lives = os.pipe()

    def in_the_child() -> None:
        os.close(parent_lives)
        keep(store, childs[0])
        os.close(has_opened)
        if order == "parent_first":
            os.read(parent_done, 1)  # returns when the parent has closed its end
        keep(store, *childs[1:])

    child = forked(in_the_child)
    os.close(has_opened)
    os.read(opened, 1)
    if order == "child_first":
        ended_well(child)
    keep(store, *parents)
    if order == "parent_first":
        store.close()
    os.close(parent_lives)
    if order != "child_first":
        ended_well(child)
    return ["before", *parents, *childs]


def fork_in_the_middle_of_a_write(path: str) -> list[str]:
    clock = Gate()
    store = SqliteStore(Path(path), clock)
    keep(store, "before")
    clock.shut()
    writing = Result(lambda: keep(store, "of the parent"))
    clock.entered.wait()
    # Were a fork to wait for the end of the write, somebody would have to let that end.
    threading.Timer(1.0, clock.open).start()

    def in_the_child() -> None:
        clock.open()
        signal.alarm(15)
        keep(store, "of the child")

    child = forked(in_the_child)
    writing()
    ended_well(child)
    return ["of the parent", "of the child"]


def fork_while_writes_hang(path: str) -> str:
    store = SqliteStore(Path(path))
    keep(store, "before")

    def in_the_child() -> None:
        with suppress(StoreUnavailable):
            Result(lambda: keep(store, "of the child"))(8)

    with held(Path(path)) as hung:
        for number in range(3):  # one waits for the other process, the others for that one
            Result(lambda number=number: keep(store, f"of the parent {number}"))
        wait_until_inside(3)
        child = forked(in_the_child)
        hung.close()
        ended_well(child)
    return "the child was answered"


def be_killed_in_a_write_and_leave_a_child(path: str) -> None:
    clock = Gate()
    store = SqliteStore(Path(path), clock)
    keep(store, "of the parent")
    clock.shut()
    Result(lambda: keep(store, "never finished"))
    clock.entered.wait()
    threading.Timer(1.0, clock.open).start()

    def in_the_child() -> None:
        print("the child lives", flush=True)
        sys.stdin.read()

    forked(in_the_child)
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], None]) -> int:
    """A child that does `work` and ends; its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended_well(child: int) -> None:
    status = os.waitpid(child, 0)[1]
    if status:
        raise ChildProcessError(f"the child ended with {status}")


class Gate:
    """A clock that the store reads in the middle of its writes: shut, it holds a write there."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._may_pass = threading.Event()
        self._may_pass.set()

    def shut(self) -> None:
        self.entered.clear()
        self._may_pass.clear()

    def open(self) -> None:
        self._may_pass.set()

    def now(self) -> datetime:
        self.entered.set()
        self._may_pass.wait()
        return datetime.now(UTC)


def main() -> None:
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))


if __name__ == "__main__":
    main()
