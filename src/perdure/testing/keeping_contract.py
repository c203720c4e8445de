"""What a store is, third part: whatever is kept stays as it was, from however many threads it came."""
# ruff: noqa: S101

from dataclasses import replace

from perdure.middleware.persistence.turn import Answer, Json, Outcome
from perdure.testing.store_bench import WIDE, StoreBench, at_once, exactly
from perdure.testing.turns import answered, ended

__all__ = ["KeepingContract"]

_HARD_TEXTS = (
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


class KeepingContract(StoreBench):
    outlives_close = True
    """Whether a store that is made again, in the same folder, knows what the first one was told."""

    # ── faithful ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_texts_that_databases_dislike_come_back_equal(self) -> None:
        for text in _HARD_TEXTS:
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

    # ── many at once ─────────────────────────────────────────────────────────────────────────────────────────────────

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

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

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
