"""What a store is, sixth part: what is removed is gone with all that belongs to it, and nothing else is."""
# ruff: noqa: S101

from dataclasses import replace
from datetime import timedelta

from perdure.middleware.persistence.question import question_of
from perdure.middleware.persistence.turn import Outcome, StoredFile, Turn
from perdure.middleware.persistence.upkeep import FileName, Removed, Statistics
from perdure.testing.store_bench import WIDE, StoreBench
from perdure.testing.turns import a_file, answered, ended

__all__ = ["RemovingContract"]

_DAY = timedelta(days=1)
_MOST = 1_000_000


class RemovingContract(StoreBench):
    def test_a_deleted_conversation_is_gone_and_the_others_stay(self) -> None:
        self._kept("one", "own")
        self._kept("two", "shared")
        self._kept("theirs", "shared", continuation_id="elsewhere")
        removed = self.store.delete(self.principal, self.id)
        assert removed == Removed(conversations=1, turns=2, files=(self._name("own"),))
        assert self.prompts() == []
        assert [line.continuation_id for line in self.store.conversations(self.principal)] == ["elsewhere"]
        assert [file.name for file in self.store.files(self.principal)] == ["shared"]
        assert self.store.delete(self.principal, self.id) == Removed()

    def test_a_content_that_another_conversation_names_otherwise_is_said_to_be_shared(self) -> None:
        file = self._content("a")
        other = replace(file, key=file.key.replace("/a", "/b"), name="b")
        self.store.finish(answered(self.turn(files=(file,))))
        self.store.finish(answered(self.turn(continuation_id="elsewhere", files=(other,))))
        assert self.store.delete(self.principal, self.id).files == (FileName("files", file.key, shared=True),)
        assert self.store.delete(self.principal, "elsewhere").files == (FileName("files", other.key),)

    def test_nobody_deletes_what_is_not_theirs(self) -> None:
        self._kept("mine")
        assert self.store.delete(f"mallory-{self.principal}", self.id) == Removed()
        assert self.prompts() == ["mine"]

    def test_the_id_of_a_deleted_conversation_begins_a_new_one(self) -> None:
        self._kept("old")
        self.store.delete(self.principal, self.id)
        begun = self.store.begin(self.turn("new"), WIDE)
        assert (begun.continuation_id, begun.place, begun.history, begun.replay) == (self.id, 1, (), False)

    def test_a_turn_that_ends_after_its_conversation_was_deleted_is_kept_whole_in_a_new_one(self) -> None:
        running = self.turn("running")
        self.store.begin(running, WIDE)
        self.store.delete(self.principal, self.id)
        finished = self.store.finish(answered(replace(running, place=1), "at last"))
        assert (finished.continuation_id, finished.place) == (self.id, 1)
        assert self.only().answer == answered(running, "at last").answer

    def test_no_search_finds_what_was_deleted(self) -> None:
        self._kept("needle one")
        self._kept("needle two", continuation_id="elsewhere")
        question = question_of("needle", self.clock.now(), {"user": self.principal})
        assert len(self.store.search(question)) == 2
        self.store.delete(self.principal, "elsewhere")
        self._kept("needle three", continuation_id="a third")
        assert {hit.excerpt.text for hit in self.store.search(question)} == {"needle one", "needle three"}

    def test_purging_removes_what_has_expired_and_nothing_else(self) -> None:
        self._purge_what_other_tests_left()
        self._kept("expires", "own", "shared", expire_after=_DAY)
        self._kept("later", "shared", continuation_id="later", expire_after=2 * _DAY)
        self._kept("never", continuation_id="never")
        assert self.store.purge() == Removed()
        self.clock.advance(_DAY)
        expected = Removed(conversations=1, turns=1, files=(self._name("own"),))
        assert self.store.purge(dry_run=True) == self.store.purge(dry_run=True) == expected
        assert self.store.purge() == expected
        assert self.store.purge() == Removed()
        assert [line.continuation_id for line in self.store.conversations(self.principal)] == ["never", "later"]
        self.clock.advance(-_DAY)
        assert self.prompts() == []

    def test_what_made_way_for_a_new_conversation_of_its_name_is_purged_too(self) -> None:
        self._purge_what_other_tests_left()
        self._kept("old", "own", expire_after=_DAY)
        self.clock.advance(_DAY)
        self._kept("new")
        assert self.store.purge() == Removed(conversations=1, turns=1, files=(self._name("own"),))
        assert self.prompts() == ["new"]

    def test_a_batch_takes_those_that_expired_first(self) -> None:
        self._purge_what_other_tests_left()
        for days in (3, 1, 2):
            self._kept("x", str(days), continuation_id=f"c{days}", expire_after=days * _DAY)
        self.clock.advance(4 * _DAY)
        assert self.store.purge(limit=2).files == (self._name("1"), self._name("2"))
        assert [self.store.purge(limit=2).conversations for _ in range(2)] == [1, 0]

    def test_a_long_conversation_is_removed_whole(self) -> None:
        for number in range(150):
            self.store.finish(answered(self.turn(f"{number}"), "answer"))
        assert self.store.delete(self.principal, self.id) == Removed(conversations=1, turns=150)
        assert self.prompts() == []

    def test_whoever_is_forgotten_has_nothing_left_and_nobody_else_loses_anything(self) -> None:
        theirs = f"bob-{self.principal}"
        self._kept("theirs", "shared", principal=theirs)
        self._kept("expired", "old", expire_after=_DAY)
        self.clock.advance(_DAY)
        self._kept("living", "own", "shared")
        self._kept("another", continuation_id="another")
        first = self.store.forget(self.principal, limit=2)
        second = self.store.forget(self.principal, limit=2)
        assert (first.conversations, second.conversations) == (2, 1)
        assert first.turns + second.turns == 3
        assert {*first.files, *second.files} == {self._name("old"), self._name("own"), self._name("shared")}
        assert self.store.forget(self.principal) == Removed()
        assert self.store.conversations(self.principal) == []
        assert self.store.files(self.principal) == []
        assert len(self.store.conversations(theirs)) == 1

    def test_statistics_count_what_can_be_read(self) -> None:
        before = self.store.statistics(self.principal)
        assert before == Statistics(outcomes={})
        began = self.clock.now()
        self._kept("one", "a", "b")
        self._kept("two", "a", continuation_id="elsewhere")
        self.store.finish(ended(self.turn("three"), Outcome.FAILED))
        self.store.begin(self.turn("running", lease_until=began + _DAY), WIDE)
        self._kept("expired", "c", continuation_id="expired", expire_after=_DAY / 2)
        self.clock.advance(_DAY / 2)
        self.store.begin(self.turn("interrupted", lease_until=began), WIDE)
        assert self.store.statistics(self.principal) == Statistics(
            users=1,
            conversations=2,
            turns=5,
            outcomes={"answered": 2, "failed": 1, "interrupted": 1, "running": 1},
            files=2,
            file_bytes=2,
            expired=1,
            oldest=began,
            newest=began + _DAY / 2,
        )
        assert self.store.statistics().turns >= 5

    def _purge_what_other_tests_left(self) -> None:
        self.clock.advance(1000 * _DAY)
        self.store.purge(limit=_MOST)
        self.clock.advance(-500 * _DAY)

    def _kept(self, prompt: str, *files: str, **changes: object) -> Turn:
        turn = answered(self.turn(prompt, **{"files": tuple(map(self._content, files)), **changes}))
        if turn.principal != self.principal:
            tenant = f"{turn.principal}/"
            keys = [file.key.replace(f"{self.principal}/", tenant) for file in turn.files]
            turn = replace(turn, files=tuple(replace(f, key=key) for f, key in zip(turn.files, keys, strict=True)))
        self.store.begin(turn, WIDE)
        self.store.finish(turn)
        return turn

    def _name(self, file: str) -> FileName:
        return FileName("files", self._content(file).key)

    def _content(self, name: str) -> StoredFile:
        return a_file(self.principal, name, name)
