"""What a store is, second part: who finds which conversations and files."""
# ruff: noqa: S101

from dataclasses import replace
from datetime import timedelta

from perdure.middleware.persistence.turn import Outcome, StoredFile, Turn
from perdure.testing.store_bench import WIDE, StoreBench
from perdure.testing.turns import answered, ended

__all__ = ["ReadingContract"]


class ReadingContract(StoreBench):
    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

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

    # ── whose id it is ───────────────────────────────────────────────────────────────────────────────────────────────

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

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────

    def test_the_files_of_a_turn_are_kept_with_it_and_found_by_their_keys(self) -> None:
        report = self.file("report.pdf", "a")
        turn = self.gives_out(report)
        (told,) = self.store.finish(turn).files
        assert told == replace(report, version=1, turn_id=turn.id, continuation_id=self.id, created_at=turn.ended_at)
        assert self.store.file(self.principal, report.key) == told
        assert self.store.files(self.principal) == [told]

    def test_a_turn_without_files_has_none(self) -> None:
        assert self.store.finish(answered(self.turn())).files == ()
        assert self.store.files(self.principal) == []

    def test_new_content_under_a_name_is_a_new_version_and_the_same_content_is_not(self) -> None:
        told = [self.store.finish(self.gives_out(self.file("plan.txt", content))).files for content in "aabba"]
        assert [file.version for (file,) in told] == [1, 1, 2, 2, 3]

    def test_versions_are_counted_in_each_conversation_and_for_each_name(self) -> None:
        self.store.finish(self.gives_out(self.file("plan.txt", "a")))
        told = self.store.finish(self.gives_out(self.file("plan.txt", "b"), self.file("other.txt", "a"))).files
        assert {file.name: file.version for file in told} == {"plan.txt": 2, "other.txt": 1}
        (elsewhere,) = self.store.finish(self.gives_out(self.file("plan.txt", "b"), continuation_id="elsewhere")).files
        assert elsewhere.version == 1

    def test_one_file_given_out_twice_by_one_turn_is_kept_once(self) -> None:
        told = self.store.finish(self.gives_out(self.file("plan.txt", "a"), self.file("plan.txt", "a"))).files
        assert len(told) == 1
        assert self.store.files(self.principal) == list(told)

    def test_finishing_again_tells_the_same_files_and_keeps_them_once(self) -> None:
        turn = self.gives_out(self.file("a.txt", "a"), self.file("b.txt", "b"))
        first = self.store.finish(turn)
        assert self.store.finish(turn) == first
        assert len(self.store.files(self.principal)) == 2

    def test_the_files_of_an_ending_that_came_too_late_are_not_kept(self) -> None:
        turn = self.gives_out(self.file("late.txt", "a"))
        self.store.finish(ended(replace(turn, files=()), Outcome.CANCELLED))
        assert self.store.finish(turn).files == ()
        assert self.store.files(self.principal) == []

    def test_somebody_elses_file_and_an_unknown_one_look_the_same(self) -> None:
        self.store.finish(self.gives_out(self.file("mine.txt", "a")))
        theirs = f"mallory-{self.principal}"
        assert self.store.file(theirs, self.file("mine.txt", "a").key) is None
        assert self.store.file(self.principal, "unknown") is None
        assert self.store.files(theirs) == []
        assert self.store.files(theirs, self.id) == []

    def test_files_are_listed_newest_first_of_one_conversation_or_one_name(self) -> None:
        for seconds, (name, conversation) in enumerate(
            [("a.txt", self.id), ("b.txt", self.id), ("a.txt", "elsewhere"), ("c.txt", self.id)]
        ):
            turn = self.gives_out(self.file(name, "a"), continuation_id=conversation)
            self.store.finish(replace(turn, ended_at=turn.started_at + timedelta(seconds=seconds)))

        def names(continuation_id: str | None = None, name: str | None = None, limit: int = 1000) -> list[str]:
            return [file.name for file in self.store.files(self.principal, continuation_id, name, limit=limit)]

        assert names() == ["c.txt", "a.txt", "b.txt", "a.txt"]
        assert names(limit=2) == ["c.txt", "a.txt"]
        assert names(self.id) == ["c.txt", "b.txt", "a.txt"]
        assert names(None, "a.txt") == ["a.txt", "a.txt"]
        assert names(self.id, "a.txt") == ["a.txt"]
        assert names("unknown") == []

    def file(self, name: str, content: str) -> StoredFile:
        """A file whose content is a single letter."""
        return StoredFile(
            key=f"{self.principal}/{content * 64}/{name}",
            bucket="files",
            name=name,
            sha256=content * 64,
            size=1,
            media_type="text/plain",
        )

    def gives_out(self, *files: StoredFile, continuation_id: str | None = None) -> Turn:
        return answered(self.turn(continuation_id=continuation_id or self.id, files=files))
