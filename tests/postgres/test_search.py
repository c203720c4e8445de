"""Search finds a caller's own messages by words, phrases, tool, outcome and time, and no text or question breaks it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres.databases import Functions

from perdure.middleware.persistence.turn import Json, JsonObject, Outcome, Turn, Window
from perdure.testing.turns import answered, ended

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_words_phrases_alternatives_and_exclusions(mine: Functions) -> None:
    for prompt in ("the quick brown fox", "a brown and quick dog", "Quick thinking", "slow food"):
        _keep(mine, answered(mine.turn(prompt), ""))
    assert _found(mine, "quick brown") == {"the quick brown fox", "a brown and quick dog"}
    assert _found(mine, '"quick brown"') == {"the quick brown fox"}
    assert _found(mine, "fox or food") == {"the quick brown fox", "slow food"}
    assert _found(mine, "QUICK -brown") == {"Quick thinking"}
    assert _found(mine, "brow") == set()
    assert _found(mine, "") == set()


def test_a_hit_says_where_it_is(mine: Functions) -> None:
    turn = answered(mine.turn("what is a needle?", continuation_id="sewing", tool="ask"), "a needle is thin")
    _keep(mine, turn)
    answer, prompt = _hits(mine, "needle")
    assert {key: prompt[key] for key in ("continuation_id", "turn_id", "place", "part", "role", "tool", "outcome")} == {
        "continuation_id": "sewing",
        "turn_id": turn.id,
        "place": 1,
        "part": 0,
        "role": "user",
        "tool": "ask",
        "outcome": "answered",
    }
    assert (answer["part"], answer["role"], answer["tool"]) == (1, "assistant", "ask")
    assert datetime.fromisoformat(prompt["created_at"]) == turn.started_at
    assert (prompt["excerpt"], answer["excerpt"]) == ("what is a «needle»", "a «needle» is thin")


def test_an_excerpt_of_a_long_text_shows_the_words_around_the_hit(mine: Functions) -> None:
    _keep(mine, answered(mine.turn("straw " * 5000 + "needle " + "hay " * 5000), ""))
    (hit,) = _hits(mine, "needle")
    assert "straw «needle» hay" in hit["excerpt"]
    assert len(hit["excerpt"]) < 300


def test_by_tool_outcome_and_time(mine: Functions) -> None:
    _keep(mine, answered(mine.turn("needle one", tool="ask", started_at=NOON), ""))
    _keep(mine, ended(mine.turn("needle two", tool="ask", started_at=NOON + timedelta(hours=1)), Outcome.FAILED))
    _keep(mine, ended(mine.turn("needle three", tool="tell", started_at=NOON + timedelta(hours=2)), Outcome.CANCELLED))
    mine.store.begin(mine.turn("needle four", tool="tell", started_at=NOON + timedelta(hours=3)), Window(1, 1))
    assert _found(mine, "needle", tool="ask") == {"needle one", "needle two"}
    assert _found(mine, "needle", outcome="failed") == {"needle two"}
    assert _found(mine, "needle", outcome="cancelled", tool="ask") == set()
    one, two = NOON.isoformat(), (NOON + timedelta(hours=1)).isoformat()
    assert _found(mine, "needle", until=two) == {"needle one"}
    assert _found(mine, "needle", since=two) == {"needle two", "needle three", "needle four"}
    assert _found(mine, "needle", since=one, until=two) == {"needle one"}


def test_the_newest_come_first_and_no_more_than_asked_for(mine: Functions) -> None:
    for number in (2, 0, 3, 1):
        at = NOON + timedelta(minutes=number)
        _keep(mine, answered(mine.turn(f"needle {'abcd'[number]}", started_at=at), ""))
    hits = _hits(mine, "needle", max_hits=3)
    assert [hit["excerpt"] for hit in hits] == ["«needle» d", "«needle» c", "«needle» b"]


def test_nobody_finds_what_is_not_theirs(mine: Functions, server: Functions) -> None:
    _keep(mine, answered(mine.turn("needle of mine"), "needle"))
    _keep(server, answered(server.turn("needle of theirs"), "needle"))
    assert _found(mine, "needle or theirs") == {"needle of mine", "needle"}
    assert _found(server, "needle or mine") == {"needle of theirs", "needle"}


def test_what_has_expired_is_not_found(mine: Functions, server: Functions) -> None:
    _keep(mine, answered(mine.turn("needle"), ""))
    server.connection.execute("update chat_sessions set expires_at = %s where user_id = %s", [NOON, mine.principal])
    before, then = (NOON - timedelta(seconds=1)).isoformat(), NOON.isoformat()
    assert _found(mine, "needle", at=before) == {"needle"}
    assert _found(mine, "needle", at=then) == set()


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f"word{number}" for number in range(100_000)),
        # The worst for an index of at most 1 MB: letters of 4 bytes, in compounds that are indexed whole and in parts.
        " ".join(
            "-".join(chr(0x10428 + (number >> shift) % 40) * 9 for shift in range(0, 15, 5)) for number in range(9000)
        ),
        "x" * 1_000_000,
        "\n" * 1_000_000,
    ],
    ids=["distinct words", "compounds of wide letters", "one word", "no word"],
)
def test_a_megabyte_of_text_is_kept_and_found_by_its_beginning(mine: Functions, text: str) -> None:
    _keep(mine, answered(mine.turn("needle " + text), text + " pin"))
    assert _found(mine, "needle", of=6) == {"needle"}
    assert _found(mine, "pin") == set()  # beyond the 100,000 characters that are indexed
    (turn,) = mine.store.turns(mine.principal, "c")
    assert (turn.prompt, turn.answer and turn.answer.text) == ("needle " + text, text + " pin")


@pytest.mark.parametrize(
    "query",
    [
        '"unclosed',
        "-",
        "or",
        "or or -or",
        "!&|():*<->",
        "'",
        "\\",
        "a <-> b",
        ":*",
        "«»",
        "%_",
        "'; drop table chat_files; --",
    ],
)
def test_no_question_is_a_syntax_error(mine: Functions, query: str) -> None:
    assert isinstance(_hits(mine, query), list)


@pytest.mark.parametrize(
    "query", ["x" * 3000, "x" * 3_000_000, " ".join(map(str, range(300_000))), "a b " * 20_000, '"' * 100_000]
)
def test_no_question_is_too_long(mine: Functions, query: str) -> None:
    _keep(mine, answered(mine.turn("0 needle"), ""))
    assert _hits(mine, query) == []


def test_a_ruled_line_in_a_question_is_no_operator(mine: Functions) -> None:
    _keep(mine, answered(mine.turn("a needle"), ""))
    assert _found(mine, "-" * 80 + " needle " + "- " * 80) == {"a needle"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0") | st.sampled_from('"-| &!():*or')))
def test_no_text_at_all_breaks_search(mine: Functions, query: str) -> None:
    assert _hits(mine, query) == []  # nothing is kept yet


def _keep(functions: Functions, turn: Turn) -> None:
    functions.store.finish(turn)


def _found(functions: Functions, query: str, *, of: int = 1000, **narrowed: str) -> set[str]:
    """The excerpts, without their marks."""
    return {hit["excerpt"].replace("«", "").replace("»", "")[:of] for hit in _hits(functions, query, **narrowed)}


def _hits(functions: Functions, query: str, **narrowed: Json) -> list[JsonObject]:
    hits: list[JsonObject] = functions("search_messages", query=query, **narrowed)["hits"]
    return hits
