"""What a turn makes a Postgres do is counted by the server itself: one wait for the disk, and none for its intent."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from perdure.middleware.persistence.stores.postgres.functions import PostgresFunctions
from perdure.middleware.persistence.stores.sql_functions import SqlFunctionStore
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn, answered

WINDOW = Window(20, 8_000)


class Counted:
    """A store over one connection, and what the process at its other end did."""

    def __init__(self, url: str) -> None:
        self.functions = PostgresFunctions(url, timeout=30, max_connections=1)
        self.store = SqlFunctionStore(self.functions)

    def syncs_of(self, work: Callable[[], object]) -> int:
        before = self._syncs()
        work()
        return self._syncs() - before

    def _syncs(self) -> int:
        with self.functions._connections.one(time.monotonic() + 30) as connection:
            connection.execute("select pg_stat_force_next_flush()")
            (syncs,) = connection.execute(
                "select sum(fsyncs) from pg_stat_get_backend_io(pg_backend_pid()) where object = 'wal'"
            ).fetchone() or (0,)
            return int(syncs or 0)


@pytest.fixture
def counted(database_url: str) -> Iterator[Counted]:
    counted = Counted(database_url)
    with closing(counted.store):
        yield counted


def test_a_turn_waits_for_the_disk_when_it_ends_and_not_when_it_begins(counted: Counted) -> None:
    begun, ended = [], []
    for number in range(20):
        turn = a_turn(f"{number}", continuation_id="c")
        places: list[int] = []
        begun.append(
            counted.syncs_of(lambda turn=turn, places=places: places.append(counted.store.begin(turn, WINDOW).place))
        )
        ending = answered(replace(turn, place=places[0]), "yes")
        ended.append(counted.syncs_of(lambda ending=ending: counted.store.finish(ending)))
    assert sum(begun) <= 2, "a page of the log that is full is written by whoever fills it"
    assert sum(ended) >= 10, "the log's own writer may have been faster"
    assert max(ended) == 1


def test_a_turn_that_is_begun_and_ended_at_once_waits_for_the_disk(counted: Counted) -> None:
    turns = [answered(a_turn(f"{number}", continuation_id="c"), "yes") for number in range(10)]
    assert sum(counted.syncs_of(lambda turn=turn: counted.store.finish(turn)) for turn in turns) >= 5


def test_a_connection_that_waits_for_no_disk_at_all_is_left_so(database_url: str) -> None:
    counted = Counted(f"{database_url}?options=-c%20synchronous_commit%3Doff")
    with closing(counted.store):
        turn = a_turn("q", continuation_id="c")
        begun = counted.store.begin(turn, WINDOW)
        assert counted.syncs_of(lambda: counted.store.finish(answered(replace(turn, place=begun.place)))) == 0
