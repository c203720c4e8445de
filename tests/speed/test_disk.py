"""What turns take on the disk, beside the bytes of what was said: prompts of 200 bytes, answers of 2 KB."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg

from benchmarks.content import answer_to, prompt_of
from perdure.middleware.persistence.serialization import decode_answer, decode_prompt, encode_answer, encode_prompt
from perdure.middleware.persistence.stores.postgres import PostgresStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Answer, Outcome, Window
from perdure.testing.turns import a_turn, answered, ended

PROMPT, ANSWER = "q" * 200, "a" * 2048
TURNS = 1_000


def test_a_thousand_turns_take_at_most_1_4_times_their_content(tmp_path: Path) -> None:
    result = {
        "content": [{"type": "text", "text": ANSWER}],
        "structuredContent": {"result": ANSWER},
        "resultType": "complete",
    }
    with closing(SqliteStore(tmp_path / "perdure.db")) as store, ThreadPoolExecutor(32) as pool:

        def keep(_: int) -> None:
            turn = replace(a_turn(PROMPT, continuation_id="c"), metadata={"protocol_version": "2026-07-28"})
            store.finish(ended(turn, Outcome.ANSWERED, Answer(text=ANSWER, result=result)))

        list(pool.map(keep, range(TURNS)))
        assert store.turns("alice", "c", after=TURNS - 1)[0].answer == Answer(text=ANSWER, result=result)
    size = sum(file.stat().st_size for file in tmp_path.glob("perdure.db*"))
    assert size <= 1.4 * TURNS * (len(PROMPT) + len(ANSWER))


def test_turns_of_many_conversations_that_are_kept_together_write_few_pages_beside_those_for_their_content(
    tmp_path: Path,
) -> None:
    window, groups = Window(20, 1_000_000), 6
    with closing(SqliteStore(tmp_path / "perdure.db")) as store:
        for _ in range(groups):
            turns = [a_turn(PROMPT, continuation_id=f"conversation {number}") for number in range(64)]
            assert None not in store.begin_together([(turn, window) for turn in turns])
            assert None not in store.finish_together([answered(turn, ANSWER) for turn in turns])
        # What was written, page by page: too little for SQLite to begin with the log anew.
        written = (tmp_path / "perdure.db-wal").stat().st_size
    assert written <= 3.5 * groups * len(turns) * (len(PROMPT) + len(ANSWER))


def test_in_postgres_they_take_no_more_than_their_content(database_url: str) -> None:
    """Where nobody has searched; texts are compressed, indexes and the queue for search are counted."""
    with closing(PostgresStore(database_url, timeout=60)) as store, ThreadPoolExecutor(32) as pool:

        def keep(number: int) -> int:
            prompt = prompt_of(number)
            answer = answer_to(prompt)
            store.finish(ended(a_turn(prompt, continuation_id="c"), Outcome.ANSWERED, Answer(text=answer)))
            return len(prompt) + len(answer)

        content = sum(pool.map(keep, range(TURNS)))
    with psycopg.connect(database_url) as connection:
        (size,) = connection.execute(
            "select sum(pg_total_relation_size(oid)) from pg_class where relname like 'chat\\_%' and relkind = 'r'"
        ).fetchone() or (0,)
    assert 0 < size <= content


def test_a_body_that_stands_beside_most_messages_is_a_number_and_its_likes_are_not() -> None:
    text = "more than sixteen characters"
    common = {"content": [{"type": "text", "text": text}], "resultType": "complete"}
    other_order = {"resultType": "complete", "content": [{"text": text, "type": "text"}]}
    for result, is_common in ((common, True), (other_order, False), ({**common, "isError": None}, False)):
        answer = Answer(text=text, result=result)
        kept = encode_answer(answer)
        assert (kept.body == "9") is is_common
        assert str(decode_answer(kept)) == str(answer)
    prompt = encode_prompt(text, {"prompt": text})
    assert prompt.body == "1"
    assert decode_prompt(prompt).arguments == {"prompt": text}
