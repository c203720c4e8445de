"""What a store is, first part: the life of a turn, and the history it continues."""
# ruff: noqa: S101

from dataclasses import replace
from datetime import timedelta

from perdure.errors import ConversationFull
from perdure.middleware.idempotency import turn_id_of
from perdure.middleware.persistence.turn import Answer, BegunTurn, FinishedTurn, Outcome, Window
from perdure.testing.store_bench import WIDE, StoreBench, as_kept, at_once
from perdure.testing.turns import answered, ended

__all__ = ["TurnContract"]


class TurnContract(StoreBench):
    # ── places ───────────────────────────────────────────────────────────────────────────────────────────────────────

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

    def test_a_conversation_takes_no_turn_after_the_last_place_that_the_window_admits(self) -> None:
        within = Window(turns=20, tokens=1000, last_place=2)
        first = self.turn("first", id=turn_id_of(self.principal, "an idempotency key", 0))
        self.store.begin(first, within)
        second = self.turn("second")
        self.store.begin(second, within)
        self.store.finish(answered(second))
        assert self.is_full(within)
        assert self.prompts() == ["first", "second"]
        assert self.store.begin(first, within).replay
        assert self.store.begin(self.turn(continuation_id="another"), within).place == 1

    def test_of_many_at_once_no_more_begin_than_there_are_places(self) -> None:
        within = Window(turns=0, tokens=0, last_place=5)

        began = at_once(lambda _: self.is_full(within), range(16)).count(False)
        assert began == 5
        assert len(self.kept()) == began
        assert self.is_full(within)

    def test_what_may_have_been_acknowledged_elsewhere_is_taken_at_any_length(self) -> None:
        self.store.begin(self.turn(), Window(turns=0, tokens=0, last_place=1))
        assert self.store.finish(answered(self.turn("from a spool"))).place == 2

    def is_full(self, within: Window) -> bool:
        """Whether the conversation takes no other turn. If it does, there is one more."""
        try:
            self.store.begin(self.turn(), within)
        except ConversationFull as full:
            return full.place >= (within.last_place or 0)
        return False

    # ── endings ──────────────────────────────────────────────────────────────────────────────────────────────────────

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

    # ── one id, one call ─────────────────────────────────────────────────────────────────────────────────────────────

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

    # ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────

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
