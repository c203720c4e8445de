"""perdure's embedded default without a seam: turns through the engine into SQLite, and proof that they are there."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from benchmarks.content import answer_to
from benchmarks.engine_turns import PRINCIPAL, WINDOW, one_turn, one_turn_of_a_call
from benchmarks.raw_sqlite import grow_log
from perdure.middleware.persistence import wiring
from perdure.middleware.persistence.file_stores.local import LocalFileStore
from perdure.middleware.persistence.large_messages import LargeMessages
from perdure.middleware.persistence.large_messages.bodies import Bodies
from perdure.middleware.persistence.runtime import redactor_for
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Outcome, Turn, new_turn_id
from perdure.settings import Settings

__all__ = ["WINDOW", "Embedded", "Seed", "embedded"]


@dataclass(frozen=True, slots=True)
class Seed:
    """What stands in a database beforehand: so many conversations, each of so many messages."""

    conversations: int = 1
    messages: int = 0


_Acknowledged: TypeAlias = tuple[str, int, str]
"""A turn's id, its place and its prompt. Nothing that Python's collector would have to follow while it is measured."""


class Embedded:
    """One database, one runtime. `turn` may be called from many threads, `turn_of_a_call` by many tasks."""

    def __init__(self, path: Path, seed: Seed) -> None:
        self._path = path
        settings = Settings(data_dir=path.parent)
        bodies = Bodies(LocalFileStore(path.parent / "files", settings.bucket), path.parent)
        # As in a server, whose store stands behind that.
        self._store = LargeMessages(SqliteStore(path), bodies, max_bytes=settings.max_message_bytes)
        self._runtime = wiring.build(settings, store=self._store)
        self._redactor = redactor_for(True, ())
        self._lock = threading.Lock()
        self._acknowledged: dict[str, list[_Acknowledged]] = {}
        self._asked = 0
        self.seed = seed
        firsts = [self._turn(name(index)) for index in range(seed.conversations)]
        if seed.messages:
            _plant(path, seed, firsts)
        grow_log(path)

    def turn(self, continuation_id: str) -> None:
        """Begin and finish, durable; notes what was acknowledged."""
        self._note(continuation_id, self._turn(continuation_id))

    async def turn_of_a_call(self, continuation_id: str) -> None:
        """The same by the steps of a call on an event loop."""
        turn = await one_turn_of_a_call(self._runtime, self._redactor, continuation_id, self._next_number())
        self._note(continuation_id, turn)

    def _note(self, continuation_id: str, turn: Turn) -> None:
        with self._lock:
            self._acknowledged.setdefault(continuation_id, []).append((turn.id, turn.place or 0, turn.prompt))

    def verified(self) -> int:
        """How many turns were acknowledged: each is in the file, in its place, with its own answer.

        Raises:
            AssertionError: One is not.
        """
        with closing(SqliteStore(self._path)) as store:
            for continuation_id, acknowledged in self._acknowledged.items():
                places = sorted(place for _, place, _ in acknowledged)
                first = places[0]
                if places != list(range(first, first + len(places))) or first <= self.seed.messages // 2:
                    raise AssertionError(f"The places given out in {continuation_id!r} are not dense: {places}")
                kept = store.turns(PRINCIPAL, continuation_id, after=first - 1, limit=len(acknowledged))
                found = {
                    (turn.id, turn.place or 0, turn.prompt)
                    for turn in kept
                    if turn.outcome is Outcome.ANSWERED and turn.answer and turn.answer.text == answer_to(turn.prompt)
                }
                if lost := set(acknowledged) - found:
                    raise AssertionError(f"{len(lost)} acknowledged turns of {continuation_id!r} are not in the file")
        return sum(map(len, self._acknowledged.values()))

    def close(self) -> None:
        self._store.close()

    def _turn(self, continuation_id: str) -> Turn:
        return one_turn(self._runtime, self._redactor, continuation_id, self._next_number())

    def _next_number(self) -> int:
        with self._lock:
            self._asked += 1
            return self._asked


@contextmanager
def embedded(path: Path, seed: Seed) -> Iterator[Embedded]:
    with closing(Embedded(path, seed)) as database:
        yield database


def name(index: int) -> str:
    """The continuation id of a conversation that was there beforehand."""
    return f"conversation-{index}"


def _plant(path: Path, seed: Seed, firsts: list[Turn]) -> None:
    """Repeats the first turn of each conversation, which the store itself wrote, until `seed.messages` are there.

    Copied row by row by whatever columns there are, so that these stay the rows that the store would write.

    Raises:
        AssertionError: The store does not read them as such.
    """
    turns = seed.messages // 2
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        columns = [row[1] for row in connection.execute("PRAGMA table_info(chat_messages)")]
        replaced = {"id": ":id", "turn_id": ":turn_id", "turn_seq": ":place"}
        chosen = ", ".join(replaced.get(column, column) for column in columns)
        copy = f"INSERT INTO chat_messages SELECT {chosen} FROM chat_messages WHERE id = :original"
        connection.execute("BEGIN IMMEDIATE")
        for session, first in zip(_sessions(connection, firsts), firsts, strict=True):
            for place in range(2, turns + 1):
                turn_id = new_turn_id(first.started_at)
                for part in (0, 1):
                    row = {
                        "id": session << 32 | place << 1 | part,
                        "original": session << 32 | 1 << 1 | part,
                        "turn_id": turn_id,
                        "place": place,
                    }
                    connection.execute(copy, row)
            connection.execute("UPDATE chat_sessions SET last_place = ? WHERE id = ?", (turns, session))
        connection.execute("COMMIT")
    _verify_planted(path, turns, firsts)


def _sessions(connection: sqlite3.Connection, firsts: list[Turn]) -> list[int]:
    found = dict(connection.execute("SELECT continuation_id, id FROM chat_sessions").fetchall())
    return [found[first.continuation_id] for first in firsts]


def _verify_planted(path: Path, turns: int, firsts: list[Turn]) -> None:
    with closing(SqliteStore(path)) as store:
        for first in firsts:
            (written,) = store.turns(PRINCIPAL, first.continuation_id, limit=1)
            for after in (1, turns // 2, turns - 1):
                (planted,) = store.turns(PRINCIPAL, first.continuation_id, after=after, limit=1)
                if replace(planted, id=written.id, place=written.place) != written or planted.place != after + 1:
                    raise AssertionError(f"A planted turn is not what the store writes: {planted}")
