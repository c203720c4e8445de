"""What a store is, further part: the leases of running turns, which the processes that run them renew."""
# ruff: noqa: S101

from dataclasses import replace
from datetime import timedelta
from typing import Any

from perdure.middleware.persistence.turn import Outcome, Turn
from perdure.testing.store_bench import WIDE, StoreBench, as_kept
from perdure.testing.turns import answered

__all__ = ["LeaseContract"]


class LeaseContract(StoreBench):
    def test_the_lease_of_a_running_turn_is_moved_and_nothing_else_of_it(self) -> None:
        turn = self.begun("still thinking")
        later = turn.lease_until + timedelta(minutes=3)
        self.store.renew({self.principal: [turn.id]}, later)
        assert self.only() == as_kept(replace(turn, place=1, lease_until=later))

    def test_the_leases_of_many_turns_of_many_principals_are_moved_at_once(self) -> None:
        other = f"bob-{self.principal}"
        mine = [self.begun() for _ in range(5)]
        theirs = [self.begun(principal=other) for _ in range(5)]
        later = mine[0].lease_until + timedelta(minutes=3)
        self.store.renew({self.principal: [turn.id for turn in mine], other: [turn.id for turn in theirs]}, later)
        kept = [*self.store.turns(self.principal, self.id), *self.store.turns(other, self.id)]
        assert [turn.lease_until for turn in kept] == [later] * 10

    def test_a_lease_is_never_moved_to_an_earlier_time(self) -> None:
        turn = self.begun()
        self.store.renew({self.principal: [turn.id]}, turn.lease_until - timedelta(seconds=1))
        assert self.only().lease_until == turn.lease_until

    def test_a_turn_that_has_ended_is_not_brought_back(self) -> None:
        turn = answered(self.begun(), "done")
        self.store.finish(turn)
        self.store.renew({self.principal: [turn.id]}, turn.lease_until + timedelta(minutes=3))
        assert self.only() == as_kept(replace(turn, place=1))

    def test_a_turn_whose_lease_was_over_is_running_again_and_may_still_be_answered(self) -> None:
        turn = self.begun()
        late = turn.lease_until + timedelta(hours=1)
        assert self.only().seen_at(late).outcome is Outcome.INTERRUPTED
        self.store.renew({self.principal: [turn.id]}, late + timedelta(minutes=1))
        assert self.only().seen_at(late).outcome is Outcome.RUNNING
        assert self.store.finish(answered(turn)).outcome is Outcome.ANSWERED

    def test_an_answer_that_comes_after_the_lease_counts(self) -> None:
        turn = self.begun()
        self.clock.advance(timedelta(days=1))
        assert self.store.finish(answered(turn)).outcome is Outcome.ANSWERED
        assert self.only().seen_at(self.clock.now()).outcome is Outcome.ANSWERED

    def test_the_turn_of_another_principal_is_left_alone(self) -> None:
        turn = self.begun()
        self.store.renew({f"mallory-{self.principal}": [turn.id]}, turn.lease_until + timedelta(minutes=3))
        assert self.only().lease_until == turn.lease_until

    def test_a_turn_that_nobody_knows_is_left_out_and_makes_no_conversation(self) -> None:
        known, unknown = self.begun(), self.turn(continuation_id="never begun")
        later = known.lease_until + timedelta(minutes=3)
        self.store.renew({self.principal: [unknown.id, known.id]}, later)
        assert self.only().lease_until == later
        assert self.store.turns(self.principal, "never begun") == []

    def test_a_conversation_is_not_newer_because_a_lease_was_renewed(self) -> None:
        turn = self.begun()
        (line,) = self.store.conversations(self.principal)
        self.clock.advance(timedelta(hours=1))
        self.store.renew({self.principal: [turn.id]}, self.clock.now() + timedelta(minutes=1))
        assert self.store.conversations(self.principal) == [line]

    def begun(self, prompt: str = "", **changes: Any) -> Turn:
        turn = self.turn(prompt, **changes)
        self.store.begin(turn, WIDE)
        return turn
