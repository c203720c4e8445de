"""What a store is that takes several turns at once: what becomes of each is what would have become of it by itself.

    class TestMyStore(StoreContract, GroupingStoreContract):
        ...

Inherited beside `StoreContract`, and made in the same way.
"""
# ruff: noqa: S101

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from perdure.errors import ConversationFull, StoreError
from perdure.middleware.idempotency import turn_id_of
from perdure.middleware.persistence.ports import Clock, GroupingStore
from perdure.middleware.persistence.turn import Answer, BegunTurn, FinishedTurn, Outcome, Turn, Window
from perdure.testing.store_bench import WIDE, StoreBench, as_kept, at_once
from perdure.testing.turns import a_file, answered, ended

__all__ = ["GroupingStoreContract"]

_DAY = timedelta(days=1)


class GroupingStoreContract(StoreBench):
    store: GroupingStore
    outlives_close = True

    def make_store(self, clock: Clock, folder: Path) -> GroupingStore:
        raise NotImplementedError

    def _begin_all(self, *turns: Turn, window: Window = WIDE) -> list[BegunTurn]:
        """As their caller begins them: those that are left out each by itself."""
        together = self.store.begin_together([(turn, window) for turn in turns])
        assert len(together) == len(turns)
        return [one or self.store.begin(turn, window) for turn, one in zip(turns, together, strict=True)]

    def _finish_all(self, *turns: Turn) -> list[FinishedTurn]:
        together = self.store.finish_together(turns)
        assert len(together) == len(turns)
        return [one or self.store.finish(turn) for turn, one in zip(turns, together, strict=True)]

    def _tell_all(self, *turns: Turn) -> None:
        """Begun together, and answered together."""
        begun = self._begin_all(*turns)
        self._finish_all(*(answered(_placed(turn, one), turn.prompt) for turn, one in zip(turns, begun, strict=True)))

    def _elsewhere(self, count: int = 3) -> list[Turn]:
        """Turns that have nothing to do with anything else, each in a conversation of its own."""
        return [self.turn(f"elsewhere {number}", continuation_id=f"{self.id} {number}") for number in range(count)]

    def _are_kept(self, turns: Sequence[Turn]) -> bool:
        kept = [self.store.turns(turn.principal, turn.continuation_id)[-1] for turn in turns]
        return [(one.id, one.answer and one.answer.text) for one in kept] == [(one.id, one.prompt) for one in turns]

    # ── what nothing stands in the way of ────────────────────────────────────────────────────────────────────────────

    def test_simple_turns_are_all_taken_and_each_is_told_of_its_own_conversation(self) -> None:
        for turn in self._elsewhere(3):
            self.tell("before", f"before {turn.prompt}", continuation_id=turn.continuation_id)
        turns = self._elsewhere(5)
        begun = self.store.begin_together([(turn, WIDE) for turn in turns])
        for number, (turn, one) in enumerate(zip(turns, begun, strict=True)):
            assert one is not None
            earlier = ["before", f"before {turn.prompt}"] if number < 3 else []
            assert (one.continuation_id, one.place) == (turn.continuation_id, len(earlier) + 1)
            assert (one.replay, one.outcome) == (False, Outcome.RUNNING)
            assert [before.prompt for before in one.history] == earlier
        endings = [
            answered(_placed(turn, one), turn.prompt) for turn, one in zip(turns, begun, strict=True) if one is not None
        ]
        assert list(self.store.finish_together(endings)) == [
            FinishedTurn(continuation_id=turn.continuation_id, place=turn.place or 0, outcome=Outcome.ANSWERED)
            for turn in endings
        ]
        for turn in endings:
            assert as_kept(self.store.turns(self.principal, turn.continuation_id)[-1]) == as_kept(turn)

    def test_turns_of_one_conversation_have_places_one_after_the_other_and_keep_their_pairs(self) -> None:
        self.tell("before")
        turns = [self.turn(f"{number}") for number in range(6)]
        begun = self._begin_all(*turns)
        assert sorted(one.place for one in begun) == list(range(2, 8))
        assert all([earlier.prompt for earlier in one.history] == ["before"] for one in begun)
        endings = [answered(_placed(turn, one), turn.prompt) for turn, one in zip(turns, begun, strict=True)]
        assert [one.place for one in self._finish_all(*endings)] == [one.place for one in begun]
        after = self._begin_all(self.turn("a"), *self._elsewhere(1))[0]
        assert [earlier.answer and earlier.answer.text for earlier in after.history] == [
            "answer to before",
            *(turn.prompt for turn in sorted(endings, key=lambda one: one.place or 0)),
        ]
        assert list(after.history) == self.kept()[:-1]

    def test_history_goes_on_from_one_group_to_the_next(self) -> None:
        within = Window(turns=2, tokens=1000)
        for number in range(4):
            turns = [self.turn(f"{number}", continuation_id=turn.continuation_id) for turn in self._elsewhere(2)]
            begun = self._begin_all(*turns, window=within)
            for one in begun:
                newest = range(max(0, number - 2), number)
                assert [(earlier.place, earlier.prompt) for earlier in one.history] == [(n + 1, f"{n}") for n in newest]
            self._finish_all(*(answered(_placed(turn, one)) for turn, one in zip(turns, begun, strict=True)))

    def test_a_budget_is_that_of_each(self) -> None:
        for turn in self._elsewhere(2):
            self.tell("one", "two", "three", continuation_id=turn.continuation_id)
        first, second = self._elsewhere(2)
        wide, narrow = self.store.begin_together([(first, WIDE), (second, Window(turns=1, tokens=1000))])
        assert wide is not None
        assert narrow is not None
        assert [turn.prompt for turn in wide.history] == ["one", "two", "three"]
        assert [turn.prompt for turn in narrow.history] == ["three"]

    def test_the_same_id_of_two_principals_is_two_conversations(self) -> None:
        turns = [self.turn("shared", principal=f"{who}-{self.principal}") for who in ("bob", "carol")]
        assert [one.place for one in self._begin_all(*turns)] == [1, 1]
        assert [self.store.turns(turn.principal, self.id)[0].id for turn in turns] == [turn.id for turn in turns]

    def test_all_that_ended_is_durable(self) -> None:
        turns = self._elsewhere()
        self._tell_all(*turns)
        self.store.close()
        self.store = self.make_store(self.clock, self.folder)
        if self.outlives_close:
            assert self._are_kept(turns)

    def test_threads_that_bring_several_lose_nothing_beside_those_that_bring_one(self) -> None:
        def tell(number: int) -> list[Turn]:
            turns = [self.turn(f"{number}"), *self._elsewhere(number % 3)]
            if len(turns) == 1:
                self.store.begin(turns[0], WIDE)
                self.store.finish(answered(turns[0], turns[0].prompt))
            else:
                self._tell_all(*turns)
            return turns

        told = [turn for turns in at_once(tell, range(9)) for turn in turns]
        for conversation in {turn.continuation_id for turn in told}:
            kept = self.store.turns(self.principal, conversation)
            assert [turn.place for turn in kept] == list(range(1, len(kept) + 1))
            assert {(turn.id, turn.answer and turn.answer.text) for turn in kept} == {
                (turn.id, turn.prompt) for turn in told if turn.continuation_id == conversation
            }

    # ── what by itself would be another matter ───────────────────────────────────────────────────────────────────────

    def test_one_that_comes_again_is_found_and_spoils_nothing(self) -> None:
        again, ended_before = self.turn("again"), self.turn("ended before", continuation_id="ended")
        keyed = self.turn("keyed", continuation_id="keyed", id=turn_id_of(self.principal, "an idempotency key", 0))
        self.store.begin(again, WIDE)
        self.store.begin(keyed, WIDE)
        self.store.finish(ended(ended_before, Outcome.FAILED))
        turns = self._elsewhere()
        *others, first, second, third = self._begin_all(*turns, again, ended_before, keyed)
        assert [(one.place, one.replay) for one in others] == [(1, False)] * 3
        assert [(one.place, one.replay, one.outcome) for one in (first, second, third)] == [
            (1, True, Outcome.RUNNING),
            (1, True, Outcome.FAILED),
            (1, True, Outcome.RUNNING),
        ]
        assert self.prompts() == ["again"]

    def test_one_that_comes_twice_at_once_is_one_turn(self) -> None:
        turn = self.turn("once")
        begun = self._begin_all(turn, *self._elsewhere(), turn)
        assert [one.place for one in begun] == [1] * 5
        assert self.prompts() == ["once"]

    def test_one_that_ends_twice_at_once_has_one_ending_which_both_are_told_and_history_goes_by(self) -> None:
        for number, other in enumerate((Outcome.FAILED, Outcome.ANSWERED)):
            turn = self.turn(f"{number}")
            turn = _placed(turn, self._begin_all(turn, *self._elsewhere(1))[0])
            told = self._finish_all(answered(turn, "yes"), ended(turn, other, Answer(text="no")))
            assert {one.outcome for one in told} == {self.kept()[-1].outcome}
        begun, _ = self._begin_all(self.turn("next"), *self._elsewhere(1))
        assert list(begun.history) == [one for one in self.kept() if one.outcome is Outcome.ANSWERED]

    def test_one_that_is_refused_changes_nothing_and_the_others_are_begun(self) -> None:
        mine = self.turn("mine")
        self.store.begin(mine, WIDE)
        turns = self._elsewhere()
        refused = [replace(mine, digest="another"), replace(mine, principal=f"mallory-{self.principal}")]
        together = self.store.begin_together([(turn, WIDE) for turn in (*turns, *refused)])
        assert list(together[3:]) == [None, None]
        for turn in refused:
            assert self.conflicts(partial(self.store.begin, turn, WIDE))
        assert [one.place for one in self._begin_all(*turns)] == [1, 1, 1]
        endings = [answered(turn, turn.prompt) for turn in (*turns, *refused)]
        together_ended = self.store.finish_together([turn.changed(place=1) for turn in endings])
        assert list(together_ended[3:]) == [None, None]
        for turn in endings[3:]:
            assert self.conflicts(partial(self.store.finish, turn))
        self._finish_all(*endings[:3])
        assert self._are_kept(turns)
        assert self.only() == as_kept(replace(mine, place=1))

    def test_no_more_begin_than_there_are_places(self) -> None:
        self.tell("first")
        within = Window(turns=20, tokens=1000, last_place=3)
        turns = [self.turn(f"{number}") for number in range(4)]
        together = self.store.begin_together([(turn, within) for turn in (*turns, *self._elsewhere())])
        refused = 0
        for turn, one in zip(turns, together, strict=False):
            try:
                _ = one or self.store.begin(turn, within)
            except ConversationFull:
                refused += 1
        assert (refused, len(self.kept())) == (2, 3)
        assert all(one is None or one.place == 1 for one in together[4:])

    def test_one_whose_conversation_has_expired_begins_a_new_one(self) -> None:
        self._tell_all(self.turn("old", expire_after=_DAY), *self._elsewhere(1))
        late = self.turn("late")
        self._begin_all(late, *self._elsewhere(1))
        self.clock.advance(_DAY)
        begun, other = self._begin_all(self.turn("new"), *self._elsewhere(1))
        assert (begun.place, list(begun.history), other.place) == (1, [], 3)
        assert self.prompts() == ["new"]
        assert (
            self._finish_all(answered(late.changed(place=2)), answered(self.turn("last")))[0].outcome
            is Outcome.ANSWERED
        )
        assert self.prompts() == ["new", "last"]

    def test_one_whose_conversation_was_deleted_meanwhile_is_kept_all_the_same(self) -> None:
        turn, *turns = self.turn("alone"), *self._elsewhere()
        begun = self._begin_all(turn, *turns)
        self.store.delete(self.principal, self.id)
        told = self._finish_all(
            *(answered(_placed(one, at), one.prompt) for one, at in zip((turn, *turns), begun, strict=True))
        )
        assert [one.place for one in told] == [1, 1, 1, 1]
        assert self._are_kept([turn, *turns])

    def test_one_with_files_keeps_them(self) -> None:
        turn, *turns = self.turn("files"), *self._elsewhere()
        self._begin_all(turn, *turns)
        file = a_file(self.principal, "report.txt", self.id[-4:])
        told = self._finish_all(
            answered(turn.changed(place=1, files=(file,)), turn.prompt), *(answered(one, one.prompt) for one in turns)
        )
        assert [[kept.name for kept in one.files] for one in told] == [["report.txt"], [], [], []]
        assert [kept.turn_id for kept in self.store.files(self.principal)] == [turn.id]
        assert self._are_kept([turn, *turns])

    def test_one_that_was_never_begun_is_begun_and_finished_at_once(self) -> None:
        turn, *turns = self.turn("late", deferred=True), *self._elsewhere()
        self._begin_all(*turns)
        places = [one.place for one in self._finish_all(*(answered(one, one.prompt) for one in (turn, *turns)))]
        assert places == [1, 1, 1, 1]
        assert self._are_kept([turn, *turns])

    def test_the_first_ending_wins_and_the_second_is_told_of_it(self) -> None:
        turn, *turns = self.turn("x"), *self._elsewhere()
        begun = self._begin_all(turn, *turns)
        turn = _placed(turn, begun[0])
        self.store.finish(ended(turn, Outcome.CANCELLED))
        told = self._finish_all(answered(turn, "too late"), *(answered(one, one.prompt) for one in turns))
        assert [one.outcome for one in told] == [Outcome.CANCELLED] + [Outcome.ANSWERED] * 3
        assert self.only().outcome is Outcome.CANCELLED

    def test_the_history_of_a_fork_goes_back_beyond_it(self) -> None:
        self.tell("a", "b", "c")
        self.store.fork(self.principal, self.id, 2, "fork")
        for number, earlier in enumerate((["a", "b"], ["a", "b", "0"])):
            turns = [self.turn(f"{number}", continuation_id="fork"), self.turn(f"{number}")]
            begun = self._begin_all(*turns)
            assert [turn.prompt for turn in begun[0].history] == earlier
            assert [turn.prompt for turn in begun[1].history] == ["a", "b", "c", "0"][: 3 + number]
            self._finish_all(*(answered(_placed(turn, one)) for turn, one in zip(turns, begun, strict=True)))

    def test_one_that_cannot_be_written_down_is_left_out_alone(self) -> None:
        bad = self.turn("bad", arguments={"prompt": "bad"})
        bad.arguments["prompt"] = object()
        turns = self._elsewhere()
        together = self.store.begin_together([(turn, WIDE) for turn in (bad, *turns)])
        assert together[0] is None
        try:
            self.store.begin(bad, WIDE)
        except StoreError:
            assert self.prompts() == []
        else:
            raise AssertionError("it was begun")
        self._begin_all(*turns)
        ending = answered(_placed(self.turn("good", continuation_id="good"), self._begin_all(*self._elsewhere(2))[0]))
        assert ending.answer is not None
        ending = ending.changed(answer=replace(ending.answer, result=object()))
        told = self.store.finish_together([ending, *(answered(turn, turn.prompt) for turn in turns)])
        assert told[0] is None
        assert self.store.turns(self.principal, "good") == []

    def test_what_is_hard_to_keep_comes_back_equal(self) -> None:
        texts = ["a\0b" * 20, "\ud800 lone", "x" * 100_000, "🦉 é" * 10]
        turns = [
            self.turn(text, arguments={"prompt": text, "n": [-0.0, 2**64]}, continuation_id=f"{self.id} {number}")
            for number, text in enumerate(texts)
        ]
        self._tell_all(*turns)
        for turn in turns:
            (kept,) = self.store.turns(self.principal, turn.continuation_id)
            assert (kept.prompt, repr(kept.arguments)) == (turn.prompt, repr(turn.arguments))
            assert kept.answer is not None
            assert kept.answer.text == turn.prompt


def _placed(turn: Turn, begun: BegunTurn) -> Turn:
    return turn.changed(place=begun.place)
