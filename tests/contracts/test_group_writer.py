"""Writes of many threads share commits; so do several that one thread brings, and what fails fails alone."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from perdure.middleware.persistence.sqlite_file.group_writer import GroupWriter, Refused


class Rows:
    """A table of numbers, each once; and how many were written in each commit."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY, CHECK (number < 1000))")
        self.writer = GroupWriter(self._writing())
        self.commits: list[list[int]] = []
        self.entered = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def _writing(self) -> "Writing":
        return Writing(self)

    def insert(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> list[str | Refused]:
        self.commits.append(list(numbers))
        self.entered.set()
        assert self.may_go_on.wait(10)
        for number in numbers:
            connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return [f"wrote {number}" for number in numbers]

    def written(self) -> list[int]:
        return [number for (number,) in self.connection.execute("SELECT number FROM numbers ORDER BY number")]

    def several(self, *numbers: int) -> Sequence[str | Refused]:
        return self.writer.write_several(numbers, self.insert, durable=True)


class Writing:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __enter__(self) -> sqlite3.Connection:
        return self._rows.connection

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    rows = Rows(tmp_path / "rows.db")
    with closing(rows.connection):
        yield rows


@contextmanager
def waiting_behind(rows: Rows, *groups: Sequence[int]) -> Iterator[None]:
    """A commit is under way; these come meanwhile, each from a thread of its own."""
    rows.may_go_on.clear()
    with ThreadPoolExecutor(len(groups) + 1) as pool:
        pool.submit(rows.several, 0)
        assert rows.entered.wait(10)
        for count, group in enumerate(groups, 1):
            pool.submit(rows.several, *group)
            while len(rows.writer._waiting) < count:
                pass
        yield
        rows.may_go_on.set()


def test_several_of_one_thread_are_one_commit_and_each_has_its_own_result(rows: Rows) -> None:
    assert list(rows.several(3, 1, 2)) == ["wrote 3", "wrote 1", "wrote 2"]
    assert (rows.written(), rows.commits) == ([1, 2, 3], [[3, 1, 2]])


def test_one_of_several_that_fails_is_refused_in_its_place_and_the_others_are_written(rows: Rows) -> None:
    first, failed, third = rows.several(1, 2000, 3)
    assert isinstance(failed, Refused)
    assert isinstance(failed.error, sqlite3.IntegrityError)
    assert (first, third, rows.written()) == ("wrote 1", "wrote 3", [1, 3])


def test_what_a_thread_brings_alone_is_raised(rows: Rows) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        rows.writer.write_together(2000, rows.insert, durable=True)
    assert rows.written() == []


def test_those_of_several_threads_go_together_up_to_the_size_of_a_commit(rows: Rows) -> None:
    with waiting_behind(rows, range(1, 41), range(41, 51), range(51, 91), range(91, 92)):
        pass
    assert [len(numbers) for numbers in rows.commits] == [1, 50, 41]
    assert rows.written() == list(range(92))


def test_what_more_than_fills_a_commit_still_is_one(rows: Rows) -> None:
    rows.several(*range(100))
    assert [len(numbers) for numbers in rows.commits] == [100]
