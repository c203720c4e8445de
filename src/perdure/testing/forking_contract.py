"""What a store is, seventh part: a fork has what came before it, goes on by itself, and outlives what it came from."""
# ruff: noqa: S101

from datetime import timedelta

from perdure.errors import ForkRefused
from perdure.middleware.persistence.turn import Outcome, StoredFile, Window
from perdure.middleware.persistence.upkeep import FileName
from perdure.testing.store_bench import WIDE, StoreBench
from perdure.testing.turns import a_file, answered, ended

__all__ = ["ForkingContract"]

_DAY = timedelta(days=1)


class ForkingContract(StoreBench):
    def test_a_fork_has_the_turns_up_to_its_place_and_each_side_goes_on_by_itself(self) -> None:
        self.tell("a", "b", "c")
        made = self.store.fork(self.principal, self.id, 2, "fork")
        assert (made.principal, made.continuation_id, made.turns) == (self.principal, "fork", 2)
        assert self._prompts("fork") == ["a", "b"]
        self.tell("d")
        self.tell("x", "y", continuation_id="fork")
        assert self._prompts("fork") == ["a", "b", "x", "y"]
        assert self.prompts() == ["a", "b", "c", "d"]
        turns = self.store.turns(self.principal, "fork")
        assert [turn.place for turn in turns] == [1, 2, 3, 4]
        assert {turn.continuation_id for turn in turns} == {"fork"}
        assert [turn.answer and turn.answer.text for turn in turns] == [f"answer to {prompt}" for prompt in "abxy"]
        assert {line.continuation_id: line.turns for line in self.store.conversations(self.principal)} == {
            self.id: 4,
            "fork": 4,
        }

    def test_the_history_of_a_fork_goes_back_beyond_it_within_its_budget(self) -> None:
        self.tell("a", "b", "c", "d")
        self.store.fork(self.principal, self.id, 3, "fork")
        self.tell("x", "y", continuation_id="fork")
        assert self._history("fork", WIDE) == ["a", "b", "c", "x", "y"]
        assert self._history("fork", Window(4, 1_000_000)) == ["b", "c", "x", "y"]
        assert self._history("fork", Window(2, 1_000_000)) == ["x", "y"]
        assert self._history("fork", Window(20, 35)) == ["c", "x", "y"]
        assert self._history("fork", Window(20, 5)) == []
        assert self._history("fork", Window(0, 0)) == []

    def test_beginning_a_turn_of_a_fork_again_reads_the_same_history(self) -> None:
        self.tell("a", "b")
        self.store.fork(self.principal, self.id, 1, "fork")
        turn = self.turn("x", continuation_id="fork")
        first, again = self.store.begin(turn, WIDE), self.store.begin(turn, WIDE)
        assert (first.place, again.place, again.replay, first.omitted) == (2, 2, True, 0)
        assert [kept.prompt for kept in first.history] == [kept.prompt for kept in again.history] == ["a"]

    def test_only_answered_turns_of_what_is_shared_are_history(self) -> None:
        self.tell("a")
        self.store.finish(ended(self.turn("failed"), Outcome.FAILED))
        self.store.begin(self.turn("running"), WIDE)
        self.tell("b")
        self.store.fork(self.principal, self.id, 4, "fork")
        begun = self.store.begin(self.turn("x", continuation_id="fork"), WIDE)
        assert [turn.prompt for turn in begun.history] == ["a", "b"]
        assert begun.omitted == 2

    def test_pages_of_a_fork_join_without_gap_or_repeat(self) -> None:
        self.tell(*"abcd")
        self.store.fork(self.principal, self.id, 3, "fork")
        self.tell(*"xyz", continuation_id="fork")
        pages = [self.store.turns(self.principal, "fork", after=after, limit=2) for after in (0, 2, 4, 6)]
        assert ["".join(turn.prompt for turn in page) for page in pages] == ["ab", "cx", "yz", ""]

    def test_a_fork_of_a_fork_and_one_before_its_place(self) -> None:
        self.tell("a", "b", "c")
        self.store.fork(self.principal, self.id, 2, "fork")
        self.tell("x", "y", continuation_id="fork")
        self.store.fork(self.principal, "fork", 3, "deeper")
        self.store.fork(self.principal, "fork", 1, "earlier")
        self.tell("z", continuation_id="deeper")
        assert self._prompts("deeper") == ["a", "b", "x", "z"]
        assert self._history("deeper", WIDE) == ["a", "b", "x", "z"]
        assert self._prompts("earlier") == ["a"]
        self.store.delete(self.principal, "fork")
        self.store.delete(self.principal, self.id)
        assert self._prompts("deeper")[:4] == ["a", "b", "x", "z"]
        assert self._prompts("earlier") == ["a"]

    def test_a_fork_outlives_what_it_came_from(self) -> None:
        self.tell("a", "b", "c")
        self.store.fork(self.principal, self.id, 2, "fork")
        self.tell("x", continuation_id="fork")
        assert self.store.delete(self.principal, self.id).conversations == 1
        assert self.prompts() == []
        assert [line.continuation_id for line in self.store.conversations(self.principal)] == ["fork"]
        assert self._prompts("fork") == ["a", "b", "x"]
        assert self._history("fork", WIDE) == ["a", "b", "x"]
        self.tell("anew")
        assert self.prompts() == ["anew"]
        self.store.purge(limit=1_000_000)
        assert self._prompts("fork")[:3] == ["a", "b", "x"]

    def test_a_fork_ends_with_what_it_came_from_until_a_turn_moves_its_end(self) -> None:
        for prompt in "ab":
            self.store.finish(answered(self.turn(prompt, expire_after=_DAY)))
        self.store.fork(self.principal, self.id, 1, "ends")
        self.store.fork(self.principal, self.id, 2, "moved")
        self.store.finish(answered(self.turn("x", continuation_id="moved", expire_after=3 * _DAY)))
        self.clock.advance(_DAY)
        assert [line.continuation_id for line in self.store.conversations(self.principal)] == ["moved"]
        assert self._prompts("moved") == ["a", "b", "x"]
        for _ in range(2):
            self.store.purge(limit=1_000_000)
            assert self._prompts("moved") == ["a", "b", "x"]
        self.clock.advance(2 * _DAY)
        self.store.purge(limit=1_000_000)
        assert self.store.purge(limit=1_000_000).conversations == 0
        assert self.store.forget(self.principal).conversations == 0

    def test_the_files_of_shared_turns_are_the_forks_too_and_stay_while_it_needs_them(self) -> None:
        early, late = self._given("early"), self._given("late", "b")
        self.store.finish(answered(self.turn("a", files=(early,))))
        self.store.finish(answered(self.turn("b", files=(late,))))
        self.store.fork(self.principal, self.id, 1, "fork")
        assert [file.name for file in self.store.files(self.principal, "fork")] == ["early"]
        assert self.store.delete(self.principal, self.id).files == (FileName("files", late.key),)
        found = self.store.file(self.principal, early.key)
        assert found is not None
        assert found.continuation_id == "fork"
        told = self.store.finish(answered(self.turn("c", continuation_id="fork", files=(self._given("early", "e"),))))
        assert [file.version for file in told.files] == [2]
        removed = self.store.delete(self.principal, "fork").files
        assert {name.key for name in removed} == {early.key, self._given("early", "e").key}

    def test_a_turn_that_ends_again_after_a_fork_tells_its_files_once(self) -> None:
        turn = answered(self.turn("a", files=(self._given("f"),)))
        self.store.finish(turn)
        self.store.fork(self.principal, self.id, 1, "fork")
        assert len(self.store.finish(turn).files) == 1

    def test_forgetting_takes_forks_and_what_they_share(self) -> None:
        self.tell("a", "b")
        self.store.fork(self.principal, self.id, 1, "one")
        self.store.fork(self.principal, "one", 1, "two")
        self.store.delete(self.principal, self.id)
        for _ in range(5):
            self.store.forget(self.principal, limit=1)
        assert self.store.conversations(self.principal) == []
        assert self.store.forget(self.principal).conversations == 0

    def test_what_cannot_be_forked_is_refused(self) -> None:
        self.tell("a", "b")
        theirs = f"mallory-{self.principal}"
        self.tell("other", continuation_id="taken")
        assert self._refused(theirs, self.id, 1, "fork")
        assert self._refused(self.principal, "unknown", 1, "fork")
        assert self._refused(self.principal, self.id, 3, "fork")
        assert self._refused(self.principal, self.id, 0, "fork")
        assert self._refused(self.principal, self.id, 1, "taken")
        assert self._refused(self.principal, self.id, 1, self.id)
        assert len(self.store.conversations(self.principal)) == 2

    def _refused(self, principal: str, continuation_id: str, place: int, new_id: str) -> bool:
        try:
            self.store.fork(principal, continuation_id, place, new_id)
        except ForkRefused:
            return True
        return False

    def _prompts(self, continuation_id: str) -> list[str]:
        return [turn.prompt for turn in self.store.turns(self.principal, continuation_id, limit=1000)]

    def _history(self, continuation_id: str, window: Window) -> list[str]:
        """What a turn that comes now is told; it stays without an answer, and so is in no later history."""
        begun = self.store.begin(self.turn("asks", continuation_id=continuation_id), window)
        return [turn.prompt for turn in begun.history]

    def _given(self, name: str, letter: str = "a") -> StoredFile:
        return a_file(self.principal, name, letter)
