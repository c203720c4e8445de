"""What a store is, fourth part: what has expired is as if it had never been, and its id begins a new conversation."""
# ruff: noqa: S101

from dataclasses import replace
from datetime import timedelta

from perdure.middleware.persistence.turn import StoredFile, Turn
from perdure.testing.store_bench import WIDE, StoreBench
from perdure.testing.turns import answered

__all__ = ["ExpiryContract"]

_DAY = timedelta(days=1)
_MOMENT = timedelta(microseconds=1)


class ExpiryContract(StoreBench):
    def test_up_to_its_last_moment_a_conversation_is_there_and_then_it_is_not(self) -> None:
        self._expiring("old", expire_after=_DAY)
        self.clock.advance(_DAY - _MOMENT)
        assert self.prompts() == ["old"]
        assert [line.continuation_id for line in self.store.conversations(self.principal)] == [self.id]
        assert [line.turns for line in self.store.conversations(None, self.id)] == [1]
        assert self.store.files(self.principal) == self.store.files(self.principal, self.id) != []
        assert self.store.file(self.principal, self._file().key) is not None
        self.clock.advance(_MOMENT)
        assert self.prompts() == []
        assert self.store.conversations(self.principal) == self.store.conversations(None, self.id) == []
        assert self.store.files(self.principal) == self.store.files(self.principal, self.id) == []
        assert self.store.file(self.principal, self._file().key) is None

    def test_the_id_of_an_expired_conversation_begins_a_new_one_that_does_not_expire_by_itself(self) -> None:
        self._expiring("old", expire_after=_DAY)
        self.clock.advance(_DAY)
        begun = self.store.begin(self.turn("new"), WIDE)
        assert (begun.continuation_id, begun.place, begun.history, begun.replay) == (self.id, 1, (), False)
        self.clock.advance(400 * _DAY)
        assert self.prompts() == ["new"]
        self.clock.advance(-401 * _DAY)  # a clock that goes back does not bring the old one back
        assert self.prompts() == ["new"]
        assert len(self.store.conversations(self.principal)) == 1

    def test_every_turn_that_says_so_moves_the_end_and_one_that_does_not_leaves_it(self) -> None:
        self._expiring("one", expire_after=2 * _DAY)
        self.clock.advance(_DAY)
        self._expiring("two", expire_after=2 * _DAY)
        self.tell("says nothing")
        self.clock.advance(2 * _DAY - _MOMENT)
        assert self.prompts() == ["one", "two", "says nothing"]
        self._expiring("shorter", expire_after=2 * _MOMENT)
        self.clock.advance(_MOMENT)
        assert len(self.prompts()) == 4
        self.clock.advance(_MOMENT)
        assert self.prompts() == []

    def test_a_list_tells_when_each_conversation_ends(self) -> None:
        self._expiring("ends", expire_after=_DAY)
        self.tell("stays", continuation_id="elsewhere")
        found = {line.continuation_id: line.expires_at for line in self.store.conversations(self.principal)}
        assert found == {self.id: self.clock.now() + _DAY, "elsewhere": None}
        assert [line.expires_at for line in self.store.conversations(None, self.id)] == [self.clock.now() + _DAY]

    def test_a_conversation_without_an_end_is_given_one_by_the_first_turn_that_says_so(self) -> None:
        self.tell("for ever")
        self._expiring("not any more", expire_after=_DAY)
        self.clock.advance(_DAY)
        assert self.prompts() == []

    def test_beginning_and_ending_a_turn_again_moves_no_end(self) -> None:
        turn = self._expiring("once", expire_after=_DAY)
        self.clock.advance(_DAY - _MOMENT)
        self.store.begin(turn, WIDE)
        self.store.finish(answered(turn))
        self.clock.advance(_MOMENT)
        assert self.prompts() == []

    def test_a_turn_that_was_never_begun_gives_its_conversation_an_end_too(self) -> None:
        self.store.finish(answered(self.turn("late", deferred=True, expire_after=_DAY)))
        assert self.prompts() == ["late"]
        self.clock.advance(_DAY)
        assert self.prompts() == []
        assert self.store.finish(answered(self.turn("anew", deferred=True))).place == 1
        assert self.prompts() == ["anew"]

    def test_a_turn_that_outlives_its_conversation_is_acknowledged_and_shows_nowhere(self) -> None:
        running = self.turn("running", expire_after=_DAY)
        self.tell("before")
        place = self.store.begin(running, WIDE).place
        self.clock.advance(_DAY)
        again = self.store.begin(running, WIDE)
        assert (again.continuation_id, again.place, again.replay, again.history) == (self.id, place, True, ())
        self.store.begin(self.turn("new"), WIDE)
        finished = self.store.finish(answered(replace(running, files=(self._file(),)), "at last"))
        assert (finished.continuation_id, finished.place) == (self.id, place)
        assert [(file.continuation_id, file.version) for file in finished.files] == [(self.id, 1)]
        assert self.store.files(self.principal) == []
        assert self.store.begin(running, WIDE).history == ()
        assert self.prompts() == ["new"]

    def test_an_expired_conversation_is_not_found_by_whoever_may_not_choose_an_id(self) -> None:
        self.store.begin(self.turn(minted=True, expire_after=_DAY), WIDE)
        self.clock.advance(_DAY)
        stranger = self.turn(adopt=False, fresh_id="fresh")
        begun = self.store.begin(stranger, WIDE)
        assert (begun.continuation_id, begun.place) == ("fresh", 1)

    def test_an_ending_that_comes_when_another_conversation_has_the_name_is_told_under_the_one_it_asked_for(
        self,
    ) -> None:
        late = self.turn("late", adopt=False, fresh_id="fresh", expire_after=_DAY)
        assert self.store.begin(late, WIDE).continuation_id == "fresh"
        self.clock.advance(_DAY)
        self.tell("new", continuation_id="fresh")
        assert self.store.finish(answered(late)).continuation_id == self.id

    def test_one_conversations_end_is_not_anothers(self) -> None:
        self._expiring("ends", expire_after=_DAY)
        self.tell("stays", continuation_id="elsewhere")
        theirs = f"bob-{self.principal}"
        self.store.finish(answered(self.turn("theirs", principal=theirs)))
        self.clock.advance(_DAY)
        assert [line.continuation_id for line in self.store.conversations(self.principal)] == ["elsewhere"]
        assert [turn.prompt for turn in self.store.turns(theirs, self.id)] == ["theirs"]

    def test_versions_of_a_file_are_counted_anew_in_the_conversation_that_comes_after(self) -> None:
        self._expiring("old", expire_after=_DAY)
        self.clock.advance(_DAY)
        (file,) = self.store.finish(answered(self.turn("new", files=(self._file("b"),)))).files
        assert file.version == 1

    def _expiring(self, prompt: str, *, expire_after: timedelta) -> Turn:
        turn = self.turn(prompt, expire_after=expire_after, files=(self._file(),))
        self.store.begin(turn, WIDE)
        self.store.finish(answered(turn))
        return turn

    def _file(self, content: str = "a") -> StoredFile:
        return StoredFile(
            key=f"{self.principal}/{content * 64}/report.txt",
            bucket="files",
            name="report.txt",
            sha256=content * 64,
            size=1,
            media_type="text/plain",
        )
