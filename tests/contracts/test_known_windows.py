"""What is kept in mind of conversations in Postgres stays within its bounds, and is gone when it is to be forgotten."""

from functools import reduce
from operator import xor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.middleware.persistence.serialization import Prompt
from perdure.middleware.persistence.stores import known_windows
from perdure.middleware.persistence.stores.known_turns import KnownTurn
from perdure.middleware.persistence.stores.known_windows import BegunHere, Claim, KnownWindow, KnownWindows
from perdure.middleware.persistence.turn import Window
from perdure.testing.turns import a_turn

WIDE = Window(turns=10, tokens=1000)
NARROW = Window(turns=3, tokens=1000)


def a_window(characters: int = 1) -> KnownWindow:
    return KnownWindow(WIDE, {1: a_known_turn(characters)}, first=1, versions={1: 5})


def a_known_turn(characters: int = 1, tokens: int = 0) -> KnownTurn:
    return KnownTurn(a_turn("q", continuation_id="c", tokens=tokens), characters, 5)


def a_beginning(place: int, characters: int = 1) -> BegunHere:
    return BegunHere(a_turn("q", continuation_id="c"), Prompt("q", {}, {}), characters, place, 6)


def remembered(known: KnownWindows[str], *names: str) -> list[str]:
    return [name for name in names if known.of(name, WIDE).turns]


def test_what_is_remembered_stays_within_its_bounds_and_the_oldest_goes_first() -> None:
    known: KnownWindows[str] = KnownWindows(most_characters=1000)
    generation = known.of("", WIDE).generation
    for name in ("a", "b", "c", "d"):
        known.keep(name, a_window(240), generation)
    remembered(known, "a")
    known.keep("e", a_window(240), generation)
    assert remembered(known, *"abcde") == ["a", "c", "d", "e"]
    known.keep("much", a_window(300), generation)
    assert remembered(known, "much") == []
    known.forget_all()
    known.keep("late", a_window(), generation)
    assert remembered(known, "a", "c", "late") == []


def test_a_conversation_that_grows_too_large_is_forgotten_and_leaves_room() -> None:
    known: KnownWindows[str] = KnownWindows(most_characters=1000)
    for name in ("a", "b"):
        known.keep(name, a_window(200), 0)
    known.ended("a", 1, 7, a_known_turn(100), is_in_history=True)
    assert remembered(known, "a", "b") == ["b"]
    assert known._characters == 200


def test_turns_that_never_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_windows, "_MOST_BEGUN", 2)
    known: KnownWindows[str] = KnownWindows()
    first, *others = [a_beginning(place) for place in (1, 2, 3)]
    long = a_beginning(4, characters=known_windows._LONGEST_PROMPT + 1)
    for begun in (first, *others, long):
        known.begun("c", begun, 0)
    assert [known.begun_here(begun.turn.id) for begun in (first, *others, long)] == [None, *others, None]
    assert known.begun_here(others[0].turn.id) is None, "it has ended"


def test_what_was_begun_before_all_was_forgotten_is_not_known_afterwards() -> None:
    known: KnownWindows[str] = KnownWindows()
    before, after = a_beginning(1), a_beginning(2)
    known.begun("c", before, 0)
    known.forget_all()
    known.begun("c", after, 0)
    assert [known.begun_here(begun.turn.id) for begun in (before, after)] == [None, None]


def test_only_what_is_known_without_a_gap_and_within_the_same_budget_is_claimed() -> None:
    window = a_window()
    assert window.claim(WIDE) == Claim(1, 5)
    assert window.claim(NARROW) is None
    window.begun(3, 8)
    assert window.claim(WIDE) is None
    window.begun(2, 4)
    assert window.claim(WIDE) == Claim(1, 5 ^ 4 ^ 8)
    window.lose(2)
    assert window.claim(WIDE) is None
    assert KnownWindow(WIDE, {1: a_known_turn()}).claim(WIDE) is None


def test_more_places_than_a_database_should_compare_are_not_claimed() -> None:
    window = a_window()
    for place in range(2, known_windows._MOST_PLACES + 1):
        window.begun(place, 1)
    assert window.claim(WIDE) is not None
    window.begun(known_windows._MOST_PLACES + 1, 1)
    assert window.claim(WIDE) is None


def test_a_turn_too_many_goes_with_all_that_stands_before_the_next() -> None:
    window = KnownWindow(NARROW, {place: a_known_turn() for place in (1, 3, 5)}, 1, dict.fromkeys(range(1, 6), 2))
    window.begun(6, 4)
    window.ended(6, 8, a_known_turn())
    assert list(window.turns()) == [3, 5, 6]
    assert window.claim(NARROW) == Claim(3, 2 ^ 2 ^ 2 ^ 12)


def test_one_that_is_too_dear_lets_nothing_pass_that_stands_before_it() -> None:
    budget = Window(turns=10, tokens=10)
    window = KnownWindow(budget, {3: a_known_turn(tokens=6)}, 1, dict.fromkeys((1, 2, 3, 4), 2))
    window.begun(5, 4)
    window.ended(5, 8, a_known_turn(tokens=6))
    assert list(window.turns()) == [5]
    window.ended(4, 8, a_known_turn(tokens=1))
    window.ended(2, 8, a_known_turn(tokens=1))
    assert list(window.turns()) == [4, 5]
    assert window.claim(budget) == Claim(3, 2 ^ 10 ^ 12)


PLACES = st.integers(1, 8)
STEPS = st.one_of(
    st.tuples(st.just("begun"), PLACES, st.integers(1, 99)),
    st.tuples(st.just("ended"), PLACES, st.integers(0, 400)),
    st.tuples(st.just("begun and ended"), PLACES, st.integers(0, 400)),
    st.tuples(st.just("failed"), PLACES, st.integers(1, 99)),
    st.tuples(st.just("lost"), PLACES, st.just(0)),
)


@given(st.lists(STEPS, max_size=30))
def test_what_a_beginning_is_told_is_what_stands_there_whatever_has_become_of_it(
    steps: list[tuple[str, int, int]],
) -> None:
    window = KnownWindow(NARROW, {1: a_known_turn()}, first=1, versions={1: 5})
    for step, place, number in steps:
        match step:
            case "begun" if place not in window.turns():
                window.begun(place, number)
            case "ended" if place not in window.turns():
                window.ended(place, 7, a_known_turn(tokens=number))
            case "begun and ended" if place not in window.turns():
                window.begun(place, 3)
                window.ended(place, 7, a_known_turn(tokens=number))
            case "failed":
                window.ended(place, number, None)
            case "lost":
                window.lose(place)
        turns, told = window.turns(), window.told(NARROW, 0)
        assert list(turns) == sorted(turns)
        assert (told.turns, told.shown) == (turns, [known.turn for known in turns.values()])
        assert told.versions == f"{{{','.join(['5'] * len(turns))}}}"
        if told.claim is not None:
            first, versions = told.claim.first, window._versions
            assert sorted(versions) == list(range(first, first + len(versions)))
            assert told.claim.version == reduce(xor, versions.values())


def test_a_line_without_a_version_is_not_named_to_the_database() -> None:
    line = a_known_turn()._replace(made_of={"place": 1})
    assert KnownWindow(WIDE, {1: line, 2: a_known_turn()}).told(WIDE, 0).versions == "{5}"
