"""What a turn in SQLite asks of Python's own driver: counted, since it shows in no result."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Answer, Outcome, Window
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn

_WINDOW = Window(turns=10, tokens=1000)


def test_a_turn_makes_no_cursor_and_one_after_the_file_was_moved_goes_into_the_new_one(tmp_path: Path) -> None:
    made: list[str] = []

    class Counted(sqlite3.Connection):
        def execute(self, sql: str, *given: Any) -> Any:  # which makes one
            made.append(sql)
            return super().execute(sql, *given)

    def connect(*given: Any, **settings: Any) -> sqlite3.Connection:
        return sqlite3.connect(*given, factory=Counted, **settings)

    path = tmp_path / "perdure.db"
    with closing(SqliteStore(path, FrozenClock(), connect=connect)) as store:
        assert [told(store, number) for number in (1, 2)] == [1, 2]
        made.clear()
        assert [told(store, number) for number in (3, 4, 5)] == [3, 4, 5]
        assert made == []
        path.rename(tmp_path / "aside.db")
        assert told(store, 6) == 1
        assert [turn.prompt for turn in store.turns("alice", "c")] == ["prompt 6"]


def told(store: SqliteStore, number: int) -> int:
    """The place at which a turn was begun and ended."""
    turn = a_turn(f"prompt {number}", continuation_id="c")
    place = store.begin(turn, _WINDOW).place
    store.finish(turn.ended(Outcome.ANSWERED, turn.started_at, Answer(text="yes")))
    return place
