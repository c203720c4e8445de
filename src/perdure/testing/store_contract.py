"""What a store is, as tests. A backend inherits them, says how it is made, and is right when they pass.

    class TestMyStore(StoreContract):
        def make_store(self, clock, folder):
            return MyStore(folder / "turns.db", clock)

Every test uses a principal of its own, so a backend may keep one database for all of them. The hooks are pytest's
(`setup_method`, `teardown_method`); nothing of pytest is imported.
"""
# ruff: noqa: S101

import json
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from perdure.errors import TurnConflict
from perdure.middleware.persistence.ports import Clock, Store
from perdure.middleware.persistence.turn import Answer, BegunTurn, FinishedTurn, Json, Outcome, Turn, Window
from perdure.testing.clocks import FrozenClock
from perdure.testing.turns import a_turn, answered, ended

__all__ = ["StoreContract"]

T = TypeVar("T")

WIDE = Window(turns=1000, tokens=1_000_000)
"""All the history there is in a test."""


class StoreContract:
    outlives_close = True
    """Whether a store that is made again, in the same folder, knows what the first one was told."""

    def make_store(self, clock: Clock, folder: Path) -> Store:
        """A store that keeps its files, if it has any, in `folder`."""
        raise NotImplementedError

    def setup_method(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="perdure-contract-")
        self.folder = Path(self._temporary.name)
        self.clock = FrozenClock()
        self.principal = f"alice-{uuid.uuid4()}"
        self.id = f"conversation-{uuid.uuid4()}"
        self.store = self.make_store(self.clock, self.folder)

    def teardown_method(self) -> None:
        self.store.close()
        self._temporary.cleanup()

    # ── places ───────────────────────────────────────────────────────────────────────────────────────────────

    def test_the_first_turn_opens_its_conversation(self) -> None:
        begun = self.store.begin(self.turn("hello"), WIDE)
        assert begun == BegunTurn(continuation_id=self.id, place=1)

    def test_places_follow_each_other_without_gaps(self) -> None:
        assert [self.store.begin(self.turn(), WIDE).place for _ in range(5)] == [1, 2, 3, 4, 5]

    def test_each_conversation_counts_its_own_places(self) -> None:
        self.store.begin(self.turn(), WIDE)
        assert self.store.begin(self.turn(continuation_id="another"), WIDE).place == 1
        assert self.store.begin(self.turn(), WIDE).place == 2

    def test_beginning_again_answers_the_same_place_and_keeps_one_turn(self) -> None:
        turn = self.turn("once")
        first = self.store.begin(turn, WIDE)
        self.store.begin(self.turn("between"), WIDE)
        assert self.store.begin(turn, WIDE) == replace(first, replay=True)
        assert self.prompts() == ["once", "between"]

    def test_beginning_a_turn_that_has_ended_tells_how_it_ended(self) -> None:
        turn = self.turn()
        self.store.finish(ended(turn, Outcome.FAILED))
        begun = self.store.begin(turn, WIDE)
        assert (begun.replay, begun.outcome) == (True, Outcome.FAILED)

    def test_a_turn_keeps_its_place_however_late_it_ends(self) -> None:
        slow, quick = self.turn("slow"), self.turn("quick")
        self.store.begin(slow, WIDE)
        self.store.begin(quick, WIDE)
        assert self.store.finish(answered(quick)).place == 2
        assert self.store.finish(answered(slow)).place == 1
        assert self.prompts() == ["slow", "quick"]

    # ── endings ──────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_turn_comes_back_whole(self) -> None:
        turn = self.turn(
            "what is 6 x 7?",
            tool="calculator",
            arguments={"prompt": "what is 6 x 7?", "options": {"exact": True}},
            metadata={"protocol_version": "2026-07-28"},
        )
        self.store.begin(turn, WIDE)
        finished = self.store.finish(answered(turn, "forty-two", tokens=7))
        assert finished == FinishedTurn(continuation_id=self.id, place=1, outcome=Outcome.ANSWERED)
        assert self.only() == as_kept(replace(answered(turn, "forty-two", tokens=7), place=1))

    def test_a_turn_without_an_ending_is_running_and_has_no_answer(self) -> None:
        turn = self.turn("still thinking")
        self.store.begin(turn, WIDE)
        assert self.only() == as_kept(replace(turn, place=1))

    def test_a_running_turn_keeps_its_lease_and_is_never_called_interrupted_by_the_store(self) -> None:
        turn = self.turn()
        self.store.begin(turn, WIDE)
        self.clock.advance(timedelta(days=1))
        assert (self.only().lease_until, self.only().outcome) == (turn.lease_until, Outcome.RUNNING)

    def test_failed_and_cancelled_turns_are_kept_as_what_they_are(self) -> None:
        error = Answer(error={"type": "ValueError", "message": "no"})
        failed, cancelled = ended(self.turn(), Outcome.FAILED, error), ended(self.turn(), Outcome.CANCELLED)
        self.store.finish(failed)
        self.store.finish(cancelled)
        assert [(turn.outcome, turn.answer) for turn in self.kept()] == [
            (Outcome.FAILED, error),
            (Outcome.CANCELLED, Answer()),
        ]

    def test_a_turn_that_was_never_begun_is_begun_and_finished_at_once(self) -> None:
        self.store.begin(self.turn("first"), WIDE)
        late = answered(self.turn("late", deferred=True, after_place=1), "kept all the same")
        assert self.store.finish(late) == FinishedTurn(continuation_id=self.id, place=2, outcome=Outcome.ANSWERED)
        assert self.kept()[1] == as_kept(replace(late, place=2))

    def test_a_turn_that_ended_unbegun_is_known_when_its_beginning_arrives(self) -> None:
        turn = self.turn()
        self.store.finish(answered(turn))
        assert self.store.begin(turn, WIDE) == BegunTurn(
            continuation_id=self.id, place=1, replay=True, outcome=Outcome.ANSWERED
        )
        assert len(self.kept()) == 1

    def test_finishing_again_changes_nothing_and_is_acknowledged_again(self) -> None:
        turn = answered(self.turn(), "once")
        assert self.store.finish(turn) == self.store.finish(turn)
        assert self.only().answer == turn.answer

    def test_the_first_ending_wins_and_the_second_is_told_of_it(self) -> None:
        turn = self.turn()
        self.store.finish(ended(turn, Outcome.CANCELLED))
        assert self.store.finish(answered(turn, "too late")).outcome is Outcome.CANCELLED
        assert self.only().answer == Answer()

    # ── one id, one call ─────────────────────────────────────────────────────────────────────────────────────

    def test_an_id_that_comes_back_with_another_digest_is_refused(self) -> None:
        turn = self.turn("mine")
        self.store.begin(turn, WIDE)
        other = replace(turn, prompt="not mine", digest="another")
        assert self.conflicts(lambda: self.store.begin(other, WIDE))
        assert self.conflicts(lambda: self.store.finish(answered(other, "wrong answer")))
        assert self.only() == as_kept(replace(turn, place=1))

    def test_an_id_that_another_principal_used_is_refused(self) -> None:
        turn = self.turn("mine")
        self.store.begin(turn, WIDE)
        other = replace(turn, principal=f"mallory-{self.principal}")
        assert self.conflicts(lambda: self.store.begin(other, WIDE))
        assert self.conflicts(lambda: self.store.finish(answered(other)))
        assert self.store.turns(other.principal, self.id) == []
        assert self.only().outcome is Outcome.RUNNING

    def test_a_refused_turn_leaves_no_gap(self) -> None:
        turn = self.turn()
        self.store.begin(turn, WIDE)
        assert self.conflicts(lambda: self.store.begin(replace(turn, digest="another"), WIDE))
        assert self.store.begin(self.turn(), WIDE).place == 2

    def test_one_id_used_in_two_conversations_stays_in_the_first(self) -> None:
        turn = self.turn()
        self.store.begin(turn, WIDE)
        assert self.store.begin(replace(turn, continuation_id="elsewhere"), WIDE).continuation_id == self.id
        assert self.store.turns(self.principal, "elsewhere") == []

    # ── history ──────────────────────────────────────────────────────────────────────────────────────────────

    def test_history_is_the_answered_turns_before_oldest_first(self) -> None:
        self.tell("one", "two", "three")
        begun = self.store.begin(self.turn("four"), WIDE)
        assert list(begun.history) == self.kept()[:3]
        assert [turn.prompt for turn in begun.history] == ["one", "two", "three"]
        assert begun.omitted == 0

    def test_history_leaves_out_what_was_not_answered(self) -> None:
        self.tell("answered")
        self.store.begin(self.turn("running"), WIDE)
        self.store.finish(ended(self.turn("failed"), Outcome.FAILED))
        self.store.finish(ended(self.turn("cancelled"), Outcome.CANCELLED))
        begun = self.store.begin(self.turn(), WIDE)
        assert ([turn.prompt for turn in begun.history], begun.omitted) == (["answered"], 3)

    def test_history_never_holds_the_turn_itself_nor_what_came_later(self) -> None:
        early = self.turn("early")
        self.tell("before")
        self.store.begin(early, WIDE)
        self.tell("after")
        self.store.finish(answered(early))
        assert [turn.prompt for turn in self.store.begin(early, WIDE).history] == ["before"]

    def test_history_is_the_newest_turns_within_the_number_asked_for(self) -> None:
        self.tell("one", "two", "three")
        begun = self.store.begin(self.turn(), Window(turns=2, tokens=1000))
        assert ([turn.prompt for turn in begun.history], begun.omitted) == (["two", "three"], 1)

    def test_history_of_no_turns_is_empty(self) -> None:
        self.tell("one")
        assert self.store.begin(self.turn(), Window(turns=0, tokens=1000)).history == ()

    def test_history_stops_at_the_first_turn_that_does_not_fit_the_tokens(self) -> None:
        for prompt, tokens in (("small", 1), ("huge", 500), ("middle", 60), ("new", 40)):
            self.store.finish(answered(self.turn(prompt), tokens=tokens))

        def prompts_within(tokens: int) -> list[str]:
            return [turn.prompt for turn in self.store.begin(self.turn(), Window(1000, tokens)).history]

        assert prompts_within(99) == ["new"]
        assert prompts_within(100) == ["middle", "new"]
        # "small" would fit, but a gap in the middle of a conversation would be a lie.
        assert prompts_within(599) == ["middle", "new"]
        assert prompts_within(601) == ["small", "huge", "middle", "new"]
        assert prompts_within(39) == []

    def test_history_is_of_this_conversation_and_this_principal_alone(self) -> None:
        self.tell("mine")
        self.store.finish(answered(self.turn("elsewhere", continuation_id="elsewhere")))
        self.store.finish(answered(self.turn("theirs", principal=f"mallory-{self.principal}")))
        assert [turn.prompt for turn in self.store.begin(self.turn(), WIDE).history] == ["mine"]

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    def test_pages_of_turns_join_without_gap_or_repeat(self) -> None:
        self.tell(*"abcdefg")
        pages = [self.store.turns(self.principal, self.id, after=after, limit=3) for after in (0, 3, 6, 9)]
        assert ["".join(turn.prompt for turn in page) for page in pages] == ["abc", "def", "g", ""]

    def test_no_page_reaches_into_another_conversation(self) -> None:
        theirs = f"mallory-{self.principal}"
        for principal in (theirs, self.principal, theirs):
            self.store.finish(answered(self.turn(f"of {principal}", principal=principal, continuation_id=self.id)))
            self.store.finish(answered(self.turn("aside", principal=principal, continuation_id=f"{self.id}-2")))
        for after in (-(2**33), -2, -1, 0, 1, 2, 2**31 - 1, 2**31, 2**32 + 1, 2**62):
            page = self.store.turns(self.principal, self.id, after=after)
            assert [turn.prompt for turn in page] == ([f"of {self.principal}"] if after < 1 else []), after

    def test_an_unknown_conversation_and_somebody_elses_look_the_same(self) -> None:
        self.tell("mine")
        assert self.store.turns(f"mallory-{self.principal}", self.id) == []
        assert self.store.turns(self.principal, "unknown") == []
        assert self.store.conversations(f"mallory-{self.principal}", self.id) == []

    def test_reading_makes_nothing(self) -> None:
        self.store.turns(self.principal, "unknown")
        assert self.store.conversations(self.principal) == []

    def test_one_continuation_id_under_two_principals_is_two_conversations(self) -> None:
        theirs = f"bob-{self.principal}"
        self.store.finish(answered(self.turn("mine")))
        self.store.finish(answered(self.turn("theirs", principal=theirs)))
        assert self.prompts() == ["mine"]
        assert [turn.prompt for turn in self.store.turns(theirs, self.id)] == ["theirs"]

    def test_conversations_are_listed_newest_first_with_their_turns_counted(self) -> None:
        made = self.clock.now()
        self.tell("a", "b", continuation_id="old")
        self.clock.advance(1)
        self.tell("c", continuation_id="new")
        self.clock.advance(1)
        self.tell("d", continuation_id="old")
        lines = self.store.conversations(self.principal)
        assert [(line.continuation_id, line.turns) for line in lines] == [("old", 3), ("new", 1)]
        assert (lines[0].created_at, lines[0].updated_at) == (made, made + timedelta(seconds=2))
        assert lines[0].principal == self.principal

    def test_a_conversation_is_as_new_as_the_beginning_of_its_newest_turn(self) -> None:
        turn = self.turn()
        self.store.begin(turn, WIDE)
        begun = self.clock.now()
        self.clock.advance(5)
        self.store.finish(answered(turn))
        self.store.begin(turn, WIDE)
        assert self.store.conversations(self.principal)[0].updated_at == begun

    def test_a_clock_that_goes_back_does_not_make_a_conversation_older(self) -> None:
        self.tell("one")
        newest = self.clock.now()
        self.clock.advance(-3600)
        self.tell("two")
        assert self.store.conversations(self.principal)[0].updated_at == newest

    def test_pages_of_conversations_join_even_where_times_tie(self) -> None:
        names = [f"c{number}" for number in range(7)]
        for name in names:
            self.tell("hello", continuation_id=name)
        self.clock.advance(timedelta(microseconds=1))
        self.tell("hello", continuation_id="c3")
        seen: list[str] = []
        before = None
        while page := self.store.conversations(self.principal, before=before, limit=2):
            seen += [line.continuation_id for line in page]
            before = (page[-1].updated_at, page[-1].principal, page[-1].continuation_id)
        assert seen == ["c3", *sorted(set(names) - {"c3"}, reverse=True)]

    def test_an_operator_sees_the_conversations_of_everybody(self) -> None:
        theirs = f"bob-{self.principal}"
        self.tell("mine")
        self.store.finish(answered(self.turn("theirs", principal=theirs)))
        found = self.store.conversations(None, self.id)
        assert sorted(line.principal for line in found) == sorted([self.principal, theirs])

    # ── whose id it is ───────────────────────────────────────────────────────────────────────────────────────

    def test_an_unknown_id_that_may_not_be_adopted_gives_way_to_a_fresh_one(self) -> None:
        turn = self.turn(continuation_id="chosen", adopt=False, fresh_id=self.id)
        assert self.store.begin(turn, WIDE).continuation_id == self.id
        assert self.store.finish(answered(turn)).continuation_id == self.id
        assert [kept.continuation_id for kept in self.kept()] == [self.id]
        assert self.store.turns(self.principal, "chosen") == []

    def test_a_conversation_that_was_minted_can_be_continued_by_whoever_may_not_choose(self) -> None:
        self.store.begin(self.turn(minted=True, adopt=False), WIDE)
        assert self.store.begin(self.turn(adopt=False, fresh_id="fresh"), WIDE).place == 2

    def test_a_conversation_under_a_fresh_id_counts_as_minted(self) -> None:
        self.store.begin(self.turn(continuation_id="chosen", adopt=False, fresh_id=self.id), WIDE)
        assert self.store.begin(self.turn(adopt=False, fresh_id="other"), WIDE).place == 2

    def test_a_chosen_conversation_is_not_found_by_whoever_may_not_choose(self) -> None:
        self.tell("private")
        begun = self.store.begin(self.turn(adopt=False, fresh_id="fresh"), WIDE)
        assert (begun.continuation_id, begun.place, begun.history) == ("fresh", 1, ())

    def test_two_turns_with_one_fresh_id_share_its_conversation(self) -> None:
        for prompt in ("first", "second"):
            self.store.begin(self.turn(prompt, continuation_id="chosen", adopt=False, fresh_id=self.id), WIDE)
        assert self.prompts() == ["first", "second"]

    # ── faithful ─────────────────────────────────────────────────────────────────────────────────────────────

    def test_texts_that_databases_dislike_come_back_equal(self) -> None:
        for text in HARD_TEXTS:
            turn = answered(self.turn(text, arguments={"prompt": text, text: [text, {"deep": text}]}), text)
            self.store.finish(turn)
            kept = self.kept()[-1]
            assert (kept.prompt, kept.arguments, kept.answer) == (turn.prompt, turn.arguments, turn.answer), text[:40]

    def test_numbers_and_the_order_of_keys_come_back_as_they_were(self) -> None:
        value = {"z": -0.0, "a": 0.0, "big": 2**64, "bigger": -(10**40), "tiny": 5e-324, "one": 1, "float": 1.0, "": []}
        turn = replace(self.turn(arguments={"value": value}), metadata=value)
        self.store.finish(ended(turn, Outcome.ANSWERED, Answer(result=value, error=value)))
        kept = self.only()
        assert kept.answer is not None
        for found in (kept.arguments["value"], kept.answer.result, kept.answer.error, kept.metadata):
            assert exactly(found) == exactly(value)

    def test_none_as_a_result_is_not_an_empty_result(self) -> None:
        results: list[Json] = [None, {}, [], "", 0, False, {"a": None}]
        for result in results:
            self.store.finish(ended(self.turn(), Outcome.ANSWERED, Answer(text="x" * 40, result=result)))
        assert [exactly(turn.answer and turn.answer.result) for turn in self.kept()] == [exactly(r) for r in results]

    def test_a_megabyte_comes_back_equal(self) -> None:
        text = "".join(f"{number} ünïcödé 🦉\n" for number in range(50_000))
        assert len(text.encode()) > 1_000_000
        turn = answered(self.turn(text), text)
        self.store.finish(turn)
        assert (self.only().prompt, self.only().answer) == (text, turn.answer)

    def test_changing_what_was_given_in_changes_nothing_that_is_kept(self) -> None:
        arguments = {"list": [1]}
        result = {"content": [{"type": "text", "text": "as it was"}]}
        turn = self.turn(arguments=arguments)
        self.store.begin(turn, WIDE)
        self.store.finish(ended(turn, Outcome.ANSWERED, Answer(text="as it was", result=result)))
        arguments["list"].append(2)
        result["content"].clear()
        kept = self.only()
        assert kept.answer is not None
        assert (kept.arguments, kept.answer.result) == (
            {"list": [1]},
            {"content": [{"type": "text", "text": "as it was"}]},
        )

    def test_changing_what_was_read_changes_nothing_that_is_kept(self) -> None:
        self.store.finish(answered(self.turn(arguments={"list": [1]}), "hello"))
        found = self.only()
        assert found.answer is not None
        found.arguments["list"].append(2)
        found.answer.result["content"].clear()
        self.store.begin(self.turn("next"), WIDE).history[0].arguments.clear()
        again = self.kept()[0]
        assert again.answer is not None
        assert again.arguments == {"list": [1]}
        assert again.answer.result == {"content": [{"type": "text", "text": "hello"}]}

    # ── many at once ─────────────────────────────────────────────────────────────────────────────────────────

    def test_many_threads_in_one_conversation_lose_nothing_and_keep_pairs(self) -> None:
        def one(number: int) -> tuple[int, int]:
            turn = self.turn(f"prompt {number}")
            begun = self.store.begin(turn, WIDE).place
            return begun, self.store.finish(answered(turn, f"answer {number}")).place

        places = at_once(one, range(32))
        assert all(begun == finished for begun, finished in places)
        kept = self.kept()
        assert [turn.place for turn in kept] == list(range(1, 33))
        assert [turn.place for number in range(32) for turn in kept if turn.prompt == f"prompt {number}"] == [
            begun for begun, _ in places
        ]
        for turn in kept:
            assert turn.answer is not None
            assert turn.answer.text == turn.prompt.replace("prompt", "answer")

    def test_one_turn_begun_by_many_threads_is_one_turn(self) -> None:
        turn = self.turn()
        begun = at_once(lambda _: self.store.begin(turn, WIDE), range(16))
        assert {answer.place for answer in begun} == {1}
        assert sorted(answer.replay for answer in begun) == [False, *[True] * 15]

    def test_one_turn_finished_by_many_threads_has_one_ending_and_all_are_told_it(self) -> None:
        turn = self.turn()
        told = at_once(
            lambda number: (
                self.store.finish(answered(turn, str(number)) if number % 2 else ended(turn, Outcome.FAILED)).outcome
            ),
            range(16),
        )
        assert set(told) == {self.only().outcome}

    def test_a_refused_write_does_not_harm_those_that_are_made_beside_it(self) -> None:
        mine = self.turn("mine")
        self.store.begin(mine, WIDE)

        def one(number: int) -> int | None:
            if number % 4 == 0:
                assert self.conflicts(lambda: self.store.finish(answered(replace(mine, digest="another"))))
                return None
            return self.store.finish(answered(self.turn(f"beside {number}"))).place

        places = [place for place in at_once(one, range(24)) if place is not None]
        assert sorted(places) == list(range(2, 20))
        assert len(self.kept()) == 19

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────

    def test_what_was_kept_outlives_the_store_if_it_is_of_that_kind(self) -> None:
        self.tell("remember me")
        before = self.kept()
        self.store.close()
        self.store = self.make_store(self.clock, self.folder)
        assert self.kept() == (before if self.outlives_close else [])

    def test_closing_twice_does_no_harm(self) -> None:
        self.tell("something")
        self.store.close()
        self.store.close()

    def test_it_says_whether_its_calls_may_wait_for_io(self) -> None:
        assert isinstance(self.store.blocking, bool)

    # ── words of these tests ─────────────────────────────────────────────────────────────────────────────────

    def turn(self, prompt: str = "", **changes: Any) -> Turn:
        return a_turn(prompt, **{"principal": self.principal, "continuation_id": self.id} | changes)

    def tell(self, *prompts: str, continuation_id: str | None = None) -> None:
        """One answered turn after the other."""
        for prompt in prompts:
            turn = self.turn(prompt, continuation_id=continuation_id or self.id)
            self.store.begin(turn, WIDE)
            self.store.finish(answered(turn, f"answer to {prompt}"))

    def kept(self) -> list[Turn]:
        return [as_kept(turn) for turn in self.store.turns(self.principal, self.id, limit=1000)]

    def only(self) -> Turn:
        (turn,) = self.kept()
        return turn

    def prompts(self) -> list[str]:
        return [turn.prompt for turn in self.kept()]

    def conflicts(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except TurnConflict:
            return True
        return False


HARD_TEXTS = (
    "",
    "\0",
    "a\0b" * 20,
    "\ud800 lone high",
    "lone low \udfff" * 3,
    "�",
    "\u2028\u2029\x85\r\n\t",
    "'; DROP TABLE chat_messages; --",
    '{"value": null, "at": [["arguments", "prompt"]]}',
    "\\u0000 \\ud800 \\",
    "🦉 é é " * 10,
)


def as_kept(turn: Turn) -> Turn:
    """Without what only matters while a turn is begun, and which a store need not give back."""
    return replace(turn, minted=False, adopt=True, fresh_id="", stored_form=True)


def exactly(value: Json) -> str:
    """Two JSON values are the same if these texts are: `==` takes -0.0 for 0, 1.0 for 1, and any order of keys."""
    return json.dumps(value)


def at_once(work: Callable[[int], T], numbers: Iterable[int]) -> Sequence[T]:
    """What `work` returned for each number, all of them started together in threads of their own."""
    wanted = list(numbers)
    start = threading.Barrier(len(wanted))
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            results[number] = work(number)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a call has not come back within a minute"
    return [results[number] for number in wanted]
