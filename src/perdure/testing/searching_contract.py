"""What a store is, fifth part: who looks for words finds the messages that hold them."""
# ruff: noqa: S101

from dataclasses import replace
from datetime import datetime, timedelta

from perdure.middleware.persistence.question import Question, question_of
from perdure.middleware.persistence.turn import Answer, Outcome, Turn
from perdure.middleware.persistence.upkeep import Hit, HitPosition
from perdure.testing.store_bench import WIDE, StoreBench
from perdure.testing.turns import answered, ended

__all__ = ["SearchingContract"]

_HOUR = timedelta(hours=1)


class SearchingContract(StoreBench):
    def test_all_words_must_be_there_in_any_order_and_case(self) -> None:
        self._told("the quick brown fox", "a brown and QUICK dog", "quick thinking")
        assert self._found("quick brown") == {"the quick brown fox", "a brown and QUICK dog"}
        assert self._found("QUICK") == {"the quick brown fox", "a brown and QUICK dog", "quick thinking"}
        assert self._found("quic") == set()

    def test_phrases_beginnings_alternatives_and_exclusions(self) -> None:
        self._told("the quick brown fox", "a brown and quick dog", "slow food", "quickly done")
        assert self._found('"quick brown"') == {"the quick brown fox"}
        assert self._found("quick*") == {"the quick brown fox", "a brown and quick dog", "quickly done"}
        assert self._found("fox or food") == {"the quick brown fox", "slow food"}
        assert self._found("brown fox or dog") == {"the quick brown fox", "a brown and quick dog"}
        assert self._found("quick* -brown") == {"quickly done"}
        assert self._found('quick -"quick brown"') == {"a brown and quick dog"}

    def test_a_hit_says_where_it_is_and_which_words_were_found(self) -> None:
        turn = answered(self.turn("what is a needle?", tool="ask"), "a Needle is thin, a needle is")
        self.store.finish(turn)
        answer, prompt = self._hits("needle")
        assert (prompt.principal, prompt.continuation_id, prompt.turn_id) == (self.principal, self.id, turn.id)
        assert (prompt.place, prompt.part, prompt.tool, prompt.outcome) == (1, 0, "ask", Outcome.ANSWERED)
        assert (answer.part, answer.outcome) == (1, Outcome.ANSWERED)
        assert (prompt.created_at, answer.created_at) == (turn.started_at, turn.ended_at)
        assert "what is a needle" in prompt.excerpt.text
        assert _marked(prompt) == ["needle"]
        assert _marked(answer) == ["Needle", "needle"]

    def test_the_excerpt_of_a_long_message_shows_what_stands_around_the_words(self) -> None:
        self.store.finish(answered(self.turn("straw " * 2000 + "needle " + "hay " * 2000), ""))
        (hit,) = self._hits("needle")
        assert _marked(hit) == ["needle"]
        assert "straw needle hay" in hit.excerpt.text
        assert len(hit.excerpt.text) < 400

    def test_by_tool_conversation_outcome_and_time(self) -> None:
        began = self.turn().started_at
        self.store.finish(answered(self.turn("needle one", tool="ask")))
        self.store.finish(self._failed(self.turn("needle two", tool="ask", started_at=began + _HOUR)))
        later = self.turn("needle three", started_at=began + 2 * _HOUR, continuation_id="elsewhere")
        self.store.begin(later, WIDE)
        assert self._found("needle tool:ask") == {"needle one", "needle two"}
        assert self._found("needle in:elsewhere") == {"needle three"}
        assert self._found("needle outcome:failed") == {"needle two"}
        assert self._found("needle", until=began + _HOUR) == {"needle one"}
        assert self._found("needle", since=began + _HOUR) == {"needle two", "needle three"}

    def test_a_turn_without_an_answer_is_running_and_after_its_lease_interrupted(self) -> None:
        now = self.clock.now()
        self.store.begin(self.turn("needle", lease_until=now + _HOUR), WIDE)
        assert self._found("needle outcome:running") == {"needle"}
        assert self._found("needle outcome:interrupted") == set()
        self.clock.advance(2 * _HOUR)
        assert self._found("needle outcome:running") == set()
        assert self._found("needle outcome:interrupted") == {"needle"}
        assert [hit.outcome for hit in self._hits("needle")] == [Outcome.INTERRUPTED]

    def test_without_words_a_filter_finds_every_prompt(self) -> None:
        self.store.finish(answered(self.turn("one", tool="ask"), "answer"))
        self.store.finish(answered(self.turn("two", tool="tell"), "answer"))
        (hit,) = self._hits("tool:ask")
        assert (hit.excerpt.text, hit.part, hit.excerpt.marks) == ("one", 0, ())

    def test_what_comes_after_a_search_is_found_by_the_next(self) -> None:
        turn = self.turn("needle one")
        self.store.begin(turn, WIDE)
        assert self._found("needle") == {"needle one"}
        self.store.finish(answered(turn, "needle at last"))
        self.tell("needle two")
        assert self._found("needle") >= {"needle one", "needle at last", "needle two"}
        assert self._found("needle outcome:answered") >= {"needle one", "needle at last", "needle two"}

    def test_pages_of_hits_join_even_where_times_tie(self) -> None:
        for number in range(7):
            self.store.finish(answered(self.turn(f"needle {number}"), "no"))
        seen: list[str] = []
        before: HitPosition | None = None
        while page := self.store.search(self._asked("needle"), before=before, limit=3):
            seen += [hit.turn_id for hit in page]
            before = page[-1].position
        assert seen == sorted({turn.id for turn in self.kept()}, reverse=True)

    def test_nobody_finds_what_is_not_theirs_and_an_operator_finds_all(self) -> None:
        theirs = f"bob-{self.principal}"
        self.store.finish(answered(self.turn("needle of mine")))
        self.store.finish(answered(self.turn("needle of theirs", principal=theirs)))
        assert self._found("needle") == {"needle of mine"}
        everybodys = self.store.search(replace(self._asked("needle"), principal=None), limit=1000)
        assert {self.principal, theirs} <= {hit.principal for hit in everybodys}

    def test_what_has_expired_is_not_found(self) -> None:
        self.store.finish(answered(self.turn("needle", expire_after=_HOUR)))
        self.clock.advance(_HOUR)
        assert self._found("needle") == set()
        self.store.finish(answered(self.turn("needle anew")))
        assert self._found("needle") == {"needle anew"}

    def test_what_a_fork_shares_is_found_once_under_the_conversation_that_it_was_said_in(self) -> None:
        self._told("needle one", "needle two")
        self.store.fork(self.principal, self.id, 1, "fork")
        self.store.finish(answered(self.turn("needle three", continuation_id="fork"), ""))
        assert self._places("needle") == [(self.id, 1), (self.id, 2), ("fork", 2)]

    def test_a_fork_that_is_asked_for_has_what_it_shares_and_what_is_its_own(self) -> None:
        self._told("needle one", "needle two")
        self.store.fork(self.principal, self.id, 1, "fork")
        assert self._places("needle in:fork") == [("fork", 1)]
        self.store.finish(answered(self.turn("needle three", continuation_id="fork"), ""))
        self.store.fork(self.principal, "fork", 2, "deeper")
        assert self._places("needle in:fork") == [("fork", 1), ("fork", 2)]
        assert self._places("needle in:deeper") == [("deeper", 1), ("deeper", 2)]
        assert self._places(f"needle in:{self.id}") == [(self.id, 1), (self.id, 2)]

    def test_where_a_conversation_is_gone_what_was_said_in_it_is_found_under_a_fork_that_can_be_resumed(self) -> None:
        self._told("needle one", "needle two", "needle three")
        for place, name in ((1, "one"), (2, "two")):
            self.store.fork(self.principal, self.id, place, name)
        self.store.fork(self.principal, "two", 1, "deeper")
        self.clock.advance(_HOUR)
        for name in ("two", "one"):
            self.clock.advance(_HOUR)
            self.store.begin(self.turn("else", continuation_id=name), WIDE)
        self.store.delete(self.principal, self.id)
        assert self._places("needle") == [("one", 1), ("two", 2)]
        self.store.delete(self.principal, "one")
        self.store.delete(self.principal, "two")
        assert self._places("needle") == [("deeper", 1)]
        assert [turn.prompt for turn in self.store.turns(self.principal, "deeper")] == ["needle one"]
        self.store.delete(self.principal, "deeper")
        assert self._places("needle") == []

    def test_of_a_conversation_that_has_expired_a_fork_that_has_not_shows_what_it_shares(self) -> None:
        for prompt in ("needle one", "needle two"):
            self.store.finish(answered(self.turn(prompt, expire_after=_HOUR), ""))
        self.store.fork(self.principal, self.id, 1, "fork")
        self.store.finish(answered(self.turn("x", continuation_id="fork", expire_after=5 * _HOUR), ""))
        self.clock.advance(_HOUR)
        assert self._places("needle") == [("fork", 1)]
        self.store.purge()
        assert self._places("needle") == [("fork", 1)]

    def test_no_text_of_a_caller_is_read_as_the_database_s_own_language(self) -> None:
        self._told("a needle's eye", "x AND y", "NEAR needle")
        for question in (
            "needle's",
            'AND "x AND y"',
            "NEAR",
            "a:needle or x",
            "content:needle or x",
            "(needle)",
            "^needle",
            "needle^2",
            r"needle\ ",
            "needle;drop",
            "'needle",
            "needle&!x",
            "needle<->eye",
            "needle+eye",
            "{needle}",
            "--needle-- x",
            "-" * 40 + "x needle",
            "é" * 1500,
            "needle%",
            "a\0b or needle",
            "\ud800x or needle",
        ):
            self.store.search(self._asked(question))

    def _told(self, *prompts: str) -> None:
        for prompt in prompts:
            self.store.finish(answered(self.turn(prompt), ""))

    def _failed(self, turn: Turn) -> Turn:
        return ended(turn, Outcome.FAILED, Answer(text="oh"))

    def _asked(self, text: str, since: datetime | None = None, until: datetime | None = None) -> Question:
        return replace(question_of(text, self.clock.now(), {"user": self.principal}), since=since, until=until)

    def _hits(self, text: str) -> list[Hit]:
        return self.store.search(self._asked(text))

    def _places(self, text: str) -> list[tuple[str, int]]:
        return sorted((hit.continuation_id, hit.place) for hit in self._hits(text))

    def _found(self, text: str, since: datetime | None = None, until: datetime | None = None) -> set[str]:
        return {hit.excerpt.text for hit in self.store.search(self._asked(text, since, until), limit=1000)}


def _marked(hit: Hit) -> list[str]:
    return [hit.excerpt.text[first:last] for first, last in hit.excerpt.marks]
