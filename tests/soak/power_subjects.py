"""What loses power in `power_losses.py`: turns that a SQLite store keeps, and turns that wait in the spool."""

import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from soak.evidence import PRINCIPAL, Evidence, answer_to

from perdure.middleware.persistence.ports import SystemClock
from perdure.middleware.persistence.spool.database import SpoolDatabase
from perdure.middleware.persistence.spool.spooled_turns import ConversationKey, SpooledTurns
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Outcome, Turn, Window
from perdure.testing.turns import a_turn, answered

__all__ = ["SUBJECTS", "SqliteTurns", "Subject", "WaitingTurns"]

CONVERSATIONS = ("one", "two")
WINDOW = Window(20, 8_000)


class Subject(Protocol):
    """What keeps something in a SQLite database. It lives through all losses of one folder."""

    database: str
    """The name of the file."""

    def start(self, folder: Path, connect: Callable[..., Any]) -> None:
        """The machine runs, and the database is opened by `connect`."""
        ...

    def keep(self, prompt: str) -> None:
        """Returns once it is acknowledged.

        Raises:
            StoreUnavailable: The power is gone.
        """
        ...

    def stop(self) -> None: ...

    def violations(self, folder: Path) -> Iterator[str]:
        """Whatever was acknowledged since the first start, and is not there as it should be."""
        ...

    @property
    def acknowledged(self) -> int: ...


class SqliteTurns:
    """Two stores on one file, as two processes have them."""

    database = "perdure.db"

    def __init__(self) -> None:
        self._evidence = Evidence()
        self._stores: list[SqliteStore] = []
        self._numbers = count()

    @property
    def acknowledged(self) -> int:
        return len(self._evidence.finished)

    def start(self, folder: Path, connect: Callable[..., Any]) -> None:
        self._stores = [SqliteStore(folder / self.database, connect=connect) for _ in range(2)]

    def keep(self, prompt: str) -> None:
        number = next(self._numbers)
        store, name = self._stores[number % 2], CONVERSATIONS[number // 2 % 2]
        turn = a_turn(prompt, continuation_id=name, principal=PRINCIPAL)
        if number % 3 == 0:
            self._keep_together(store, [turn, turn.changed(id=f"{uuid.uuid4()}", prompt=f"{prompt}, beside it")])
            return
        if number % 5:  # else it comes whole, as from a spool
            store.begin(turn, WINDOW)
        self._evidence.finished[name, prompt] = store.finish(answered(turn, answer_to(prompt))).place

    def _keep_together(self, store: SqliteStore, turns: list[Turn]) -> None:
        store.begin_together([(turn, WINDOW) for turn in turns])
        ended = [answered(turn, answer_to(turn.prompt)) for turn in turns]
        for turn, finished in zip(ended, store.finish_together(ended), strict=True):
            if finished is not None:
                self._evidence.finished[turn.continuation_id, turn.prompt] = finished.place

    def stop(self) -> None:
        for store in self._stores:
            store.close()

    def violations(self, folder: Path) -> Iterator[str]:
        with closing(SqliteStore(folder / self.database)) as store:
            yield from self._evidence.violations(store, CONVERSATIONS)


class WaitingTurns:
    """Two spools on one file, as two processes have them. Now and then the oldest turn is sent, and dropped."""

    database = "spool.db"

    def __init__(self) -> None:
        self._spools: list[SpooledTurns] = []
        self._databases: list[SpoolDatabase] = []
        self._numbers = count()
        self._kept: dict[tuple[str, int], list[str]] = defaultdict(list)
        """Prompts in the order in which each thread was told that they are kept, by conversation and thread."""
        self._sent: set[str] = set()

    @property
    def acknowledged(self) -> int:
        return sum(map(len, self._kept.values()))

    def start(self, folder: Path, connect: Callable[..., Any]) -> None:
        self._databases = [SpoolDatabase(folder / self.database, SystemClock(), connect) for _ in range(2)]
        self._spools = [SpooledTurns(database, "somewhere", _room_for_all) for database in self._databases]

    def keep(self, prompt: str) -> None:
        number = next(self._numbers)
        spool, name = self._spools[number % 2], CONVERSATIONS[number // 2 % 2]
        turn = a_turn(prompt, continuation_id=name, principal=PRINCIPAL)
        if number % 5:  # else its intent is with the store
            spool.keep(turn)
        spool.keep(answered(turn, answer_to(prompt)))
        self._kept[name, threading.get_ident()].append(prompt)
        if number % 7 == 0:
            for oldest in spool.next(ConversationKey(PRINCIPAL, name), most=1):
                self._sent.add(oldest.turn().prompt)
                spool.drop(oldest)

    def stop(self) -> None:
        for database in self._databases:
            database.close()

    def violations(self, folder: Path) -> Iterator[str]:
        with closing(SpoolDatabase(folder / self.database, SystemClock())) as database:
            waiting = SpooledTurns(database, "somewhere", _room_for_all)
            yield from (f"the spool was set aside: {path.name}" for path in database.set_aside())
            for name in CONVERSATIONS:
                yield from self._violations_of(waiting, name)

    def _violations_of(self, waiting: SpooledTurns, name: str) -> Iterator[str]:
        found = [spooled.turn() for spooled in waiting.next(ConversationKey(PRINCIPAL, name), most=1_000_000)]
        places = {turn.prompt: place for place, turn in enumerate(found)}
        if len(places) < len(found):
            yield f"{name}: {len(found) - len(places)} turns wait twice"
        for turn in found:
            if turn.outcome is Outcome.ANSWERED and (turn.answer is None or turn.answer.text != answer_to(turn.prompt)):
                yield f"{name}: {turn.prompt!r} has the answer {turn.answer!r}"
        ended = {turn.prompt for turn in found if turn.outcome is Outcome.ANSWERED}
        for (conversation, _), prompts in list(self._kept.items()):
            if conversation == name:
                yield from (
                    f"{name}: {prompt!r} was kept, and does not wait" for prompt in {*prompts} - ended - self._sent
                )
                order = [places[prompt] for prompt in prompts if prompt in places]
                if order != sorted(order):
                    yield f"{name}: turns that one thread kept one after the other wait in another order"


def _room_for_all(_connection: Any, _size: int) -> None:
    pass


SUBJECTS: dict[str, Callable[[], Subject]] = {"store": SqliteTurns, "spool": WaitingTurns}
