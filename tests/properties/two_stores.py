"""Whatever is asked of a store, in whatever order, it answers as the memory store does: questions and stores."""

import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from servers.supabase_stack import SupabaseStack

from perdure.errors import TurnConflict
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.stores.supabase import SupabaseStore
from perdure.middleware.persistence.supabase_api.client import SupabaseApi
from perdure.middleware.persistence.turn import Answer, BegunTurn, FinishedTurn, Outcome, StoredFile, Turn, Window
from perdure.testing import FrozenClock
from perdure.testing.store_bench import as_kept
from perdure.testing.turns import a_turn, ended

__all__ = ["PostgresAndMemory", "SqliteAndMemory", "SupabaseAndMemory", "TwoStores"]

PRINCIPALS = ("alice", "bob")
CHOSEN = ("one", "two", "three")

principals = st.sampled_from(PRINCIPALS)
windows = st.builds(Window, st.integers(0, 4), st.integers(0, 40))
outcomes = st.sampled_from([Outcome.ANSWERED, Outcome.ANSWERED, Outcome.FAILED, Outcome.CANCELLED])
answers = st.builds(Answer, text=st.text(max_size=30), result=st.none() | st.just({"content": []}), error=st.none())
ends = st.sampled_from([None, None, timedelta(seconds=1), timedelta(hours=1)])
which = st.integers(0, 10**6)
"""Chooses among what there is by then: one of the turns, one of the ids."""
files = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("01")), min_size=1, max_size=3, unique=True)
"""Names and contents."""
after_places = st.none() | st.integers(0, 5)


class TwoStores(RuleBasedStateMachine):
    """`model` and, made by a subclass, `store`: both are told the same."""

    done: ClassVar[Counter[str]] = Counter()
    """Examples and steps of all machines so far."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FrozenClock()
        self.model = MemoryStore(self.clock)
        self.store = self.make_store()
        self.turns: list[Turn] = []
        self.places: dict[str, int] = {}
        """What a caller was told, by turn id."""
        self.done["examples"] += 1
        self.ids = list(CHOSEN)

    def make_store(self) -> Store:
        raise NotImplementedError

    def teardown(self) -> None:
        self.store.close()

    # ── turns ────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(principal=principals, named=which, adopt=st.booleans(), window=windows, expire_after=ends)
    def begin_under_a_named_id(
        self, principal: str, named: int, adopt: bool, window: Window, expire_after: timedelta | None
    ) -> None:
        turn = self._turn(principal, self.ids[named % len(self.ids)], adopt=adopt, expire_after=expire_after)
        self._begin(turn, window)

    @rule(principal=principals, adopt=st.booleans(), window=windows)
    def begin_under_a_minted_id(self, principal: str, adopt: bool, window: Window) -> None:
        self._begin(self._turn(principal, f"minted-{len(self.turns)}", adopt=adopt, minted=True), window)

    @rule(principal=principals, named=which, adopt=st.booleans(), after=after_places, window=windows)
    def begin_what_was_deferred(
        self, principal: str, named: int, adopt: bool, after: int | None, window: Window
    ) -> None:
        turn = self._turn(principal, self.ids[named % len(self.ids)], adopt=adopt, deferred=True, after_place=after)
        self._begin(turn, window)

    @rule(
        principal=principals,
        named=which,
        adopt=st.booleans(),
        deferred=st.booleans(),
        after=after_places,
        outcome=outcomes,
        answer=answers,
        tokens=st.integers(0, 20),
        expire_after=ends,
    )
    def finish_what_was_never_begun(
        self,
        principal: str,
        named: int,
        adopt: bool,
        deferred: bool,
        after: int | None,
        outcome: Outcome,
        answer: Answer,
        tokens: int,
        expire_after: timedelta | None,
    ) -> None:
        late: dict[str, Any] = {"deferred": deferred, "after_place": after, "expire_after": expire_after}
        turn = self._turn(principal, self.ids[named % len(self.ids)], adopt=adopt, **late)
        finished = self._same(lambda store: store.finish(ended(turn, outcome, answer, tokens=tokens)))
        self._knows(finished.continuation_id)

    @precondition(lambda self: self.turns)
    @rule(turn=which, outcome=outcomes, answer=answers, tokens=st.integers(0, 20))
    def finish_once_or_again(self, turn: int, outcome: Outcome, answer: Answer, tokens: int) -> None:
        known = self._known(turn)
        self._same(lambda store: store.finish(ended(known, outcome, answer, tokens=tokens)))

    @precondition(lambda self: self.places)
    @rule(turn=which, outcome=outcomes, answer=answers, tokens=st.integers(0, 20), chosen=st.just([]) | files)
    def finish_in_the_place_it_was_given(
        self, turn: int, outcome: Outcome, answer: Answer, tokens: int, chosen: list[tuple[str, str]]
    ) -> None:
        """As an engine does, so that the prompt need not travel again."""
        begun = [turn for turn in self.turns if turn.id in self.places]
        known = begun[turn % len(begun)]
        known = replace(known, place=self.places[known.id], files=_stored(chosen))
        self._same(lambda store: store.finish(ended(known, outcome, answer, tokens=tokens)))

    @precondition(lambda self: self.turns)
    @rule(turn=which, outcome=outcomes, chosen=files)
    def finish_with_files(self, turn: int, outcome: Outcome, chosen: list[tuple[str, str]]) -> None:
        known = replace(self._known(turn), files=_stored(chosen))
        self._same(lambda store: store.finish(ended(known, outcome)))

    @precondition(lambda self: self.turns)
    @rule(turn=which, window=windows)
    def begin_again(self, turn: int, window: Window) -> None:
        self._same(lambda store: store.begin(self._known(turn), window))

    @precondition(lambda self: self.turns)
    @rule(turn=which, window=windows)
    def begin_again_under_another_id(self, turn: int, window: Window) -> None:
        self._same(lambda store: store.begin(replace(self._known(turn), continuation_id="elsewhere"), window))

    @precondition(lambda self: self.turns)
    @rule(chosen=st.lists(st.tuples(which, st.booleans()), max_size=4), seconds=st.sampled_from([-1, 600, 1000, 5000]))
    def renew_leases(self, chosen: list[tuple[int, bool]], seconds: int) -> None:
        wanted: dict[str, list[str]] = {}
        for number, mine in chosen:
            known = self._known(number)
            wanted.setdefault(known.principal if mine else "mallory", []).append(known.id)
        self._same(lambda store: store.renew(wanted, self.turns[0].started_at + timedelta(seconds=seconds)))

    @precondition(lambda self: self.turns)
    @rule(turn=which, window=windows, finish=st.booleans(), mine=st.booleans())
    def use_an_id_for_another_call(self, turn: int, window: Window, finish: bool, mine: bool) -> None:
        known = self._known(turn)
        other = replace(known, digest="another") if mine else replace(known, principal="mallory")
        if finish:
            answer = self._same(lambda store: store.finish(ended(other, Outcome.ANSWERED)))
        else:
            answer = self._same(lambda store: store.begin(other, window))
        assert answer is TurnConflict

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    @rule(principal=principals, named=which, after=st.integers(0, 12), limit=st.integers(0, 5))
    def read_a_page_of_turns(self, principal: str, named: int, after: int, limit: int) -> None:
        self._same(lambda store: store.turns(principal, self.ids[named % len(self.ids)], after=after, limit=limit))

    @rule(principal=st.none() | principals, named=st.none() | which, limit=st.integers(0, 4))
    def read_pages_of_conversations(self, principal: str | None, named: int | None, limit: int) -> None:
        name = None if named is None else self.ids[named % len(self.ids)]
        page = self._same(lambda store: store.conversations(principal, name, limit=limit))
        while page:
            before = (page[-1].updated_at, page[-1].principal, page[-1].continuation_id)
            page = self._same(
                lambda store, before=before: store.conversations(principal, name, before=before, limit=limit)
            )

    @rule(principal=principals, named=st.none() | which, name=st.none() | st.sampled_from("ab"))
    def read_files(self, principal: str, named: int | None, name: str | None) -> None:
        conversation = None if named is None else self.ids[named % len(self.ids)]
        self._same(lambda store: _by_turn(store.files(principal, conversation, name)))

    @rule(principal=principals, key=st.sampled_from(["key/0/a", "key/1/b", "unknown"]))
    def find_a_file(self, principal: str, key: str) -> None:
        # Which of several turns that gave out one content is named, is not said anywhere.
        self._same(lambda store: getattr(store.file(principal, key), "sha256", None))

    @invariant()
    def both_keep_the_same(self) -> None:
        self.done["steps"] += 1
        lines = self._same(lambda store: store.conversations(limit=1000))
        for line in lines:
            turns = self._same(lambda store, line=line: store.turns(line.principal, line.continuation_id, limit=1000))
            assert [turn.place for turn in turns] == list(range(1, line.turns + 1))

    # ── the world ────────────────────────────────────────────────────────────────────────────────────────────

    @rule(seconds=st.sampled_from([0.000001, 1, 3600, -5]))
    def time_moves(self, seconds: float) -> None:
        if seconds < 0 and any(turn.expire_after for turn in self.turns):
            return  # what of an expired conversation comes back with a clock that goes back, each store has its own way
        self.clock.advance(seconds)

    @rule()
    def the_process_starts_again(self) -> None:
        self.store.close()
        self.store = self.make_store()

    def _begin(self, turn: Turn, window: Window) -> None:
        begun = self._same(lambda store: store.begin(turn, window))
        self._knows(begun.continuation_id)
        self.places[turn.id] = begun.place

    def _turn(self, principal: str, continuation_id: str, **changes: Any) -> Turn:
        number = len(self.turns)
        turn = a_turn(
            f"prompt {number}",
            id=str(uuid.UUID(int=number << 1)),
            principal=principal,
            continuation_id=continuation_id,
            fresh_id=f"fresh-{number}",
            **changes,
        )
        self.turns.append(turn)
        return turn

    def _known(self, number: int) -> Turn:
        return self.turns[number % len(self.turns)]

    def _knows(self, continuation_id: str) -> None:
        if continuation_id not in self.ids:
            self.ids.append(continuation_id)

    def _same(self, work: Callable[[Store], Any]) -> Any:
        """What both stores answered, which is the same."""
        expected, found = _answer(work, self.model), _answer(work, self.store)
        assert found == expected
        return found


def _stored(chosen: list[tuple[str, str]]) -> tuple[StoredFile, ...]:
    return tuple(
        StoredFile(
            key=f"key/{content}/{name}", bucket="b", name=name, sha256=content * 64, size=1, media_type="text/plain"
        )
        for name, content in chosen
    )


def _by_turn(found: Iterable[StoredFile]) -> list[StoredFile]:
    return sorted(found, key=lambda file: (file.turn_id, file.name, file.version))


def _answer(work: Callable[[Store], Any], store: Store) -> Any:
    try:
        answer = work(store)
    except TurnConflict:
        return TurnConflict
    match answer:
        case BegunTurn(history=history):
            return replace(answer, history=tuple(map(as_kept, history)))
        case FinishedTurn():
            return replace(answer, files=tuple(_by_turn(answer.files)))
        case [Turn(), *_]:
            return [as_kept(turn) for turn in answer]
        case _:
            return answer


class SqliteAndMemory(TwoStores):
    def make_store(self) -> Store:
        if not hasattr(self, "temporary"):
            self.temporary = tempfile.TemporaryDirectory(prefix="perdure-model-")
        return SqliteStore(Path(self.temporary.name) / "perdure.db", self.clock)

    def teardown(self) -> None:
        super().teardown()
        self.temporary.cleanup()


class PostgresAndMemory(TwoStores):
    url = ""
    emptied = False

    def make_store(self) -> Store:
        if not self.emptied:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute("truncate chat_sessions cascade")
            self.emptied = True
        return PostgresStore(self.url, self.clock)


class SupabaseAndMemory(TwoStores):
    stack: SupabaseStack
    emptied = False

    def make_store(self) -> Store:
        if not self.emptied:
            self.stack.empty()
            self.emptied = True
        return SupabaseStore(SupabaseApi(self.stack.url, self.stack.secret_key), self.clock, timeout=60)
