"""The rules of place: given once, under the conversation's lock, in the order of acceptance, and dense."""

from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from postgres.databases import Database, Functions

from perdure.errors import TurnConflict
from perdure.middleware.persistence.stores.sql_arguments import ending_of
from perdure.middleware.persistence.turn import Outcome, Turn, Window
from perdure.testing.store_bench import at_once
from perdure.testing.turns import answered, ended

WIDE = Window(turns=1000, tokens=1_000_000)


# ── place is given once, when any record of a turn is first accepted ─────────────────────────────────────────


def test_an_ending_that_arrives_before_its_beginning_gives_the_place_and_the_beginning_finds_it(
    mine: Functions,
) -> None:
    _tell(mine, "first")
    spooled = mine.turn("spooled", deferred=True, after_place=1)
    assert mine.store.finish(answered(spooled, "its answer")).place == 2
    _tell(mine, "after it")
    begun = mine.store.begin(spooled, WIDE)
    assert (begun.place, begun.replay, begun.outcome) == (2, True, Outcome.ANSWERED)
    assert [turn.prompt for turn in begun.history] == ["first"]
    assert _prompts(mine) == ["first", "spooled", "after it"]


def test_beginning_and_ending_again_and_again_in_any_order_keeps_one_place_and_one_ending(mine: Functions) -> None:
    turn = mine.turn("once")
    first, second = answered(turn, "first"), ended(turn, Outcome.FAILED)
    for step in (turn, turn, first, second, turn, first, replace(second, place=1), replace(first, place=1)):
        done = mine.store.begin(step, WIDE) if step.outcome is Outcome.RUNNING else mine.store.finish(step)
        assert (done.place, done.continuation_id) == (1, "c")
        _tell(mine, "another", continuation_id="aside")
    (kept,) = mine.store.turns(mine.principal, "c")
    assert (kept.outcome, kept.answer and kept.answer.text) == (Outcome.ANSWERED, "first")


def test_an_ending_alone_that_nobody_began_is_unknown_and_leaves_nothing(mine: Functions) -> None:
    unknown = mine.turn("unknown")
    alone = ending_of(answered(unknown), unknown.started_at).given
    assert mine.call("finish_turn", alone) == {"status": "unknown", "turn_id": alone["turn_id"]}
    assert mine.store.conversations(mine.principal) == []


def test_a_turn_whose_place_was_lost_with_its_database_is_kept_whole_at_a_new_one(mine: Functions) -> None:
    """As after a restore of an older backup: its writer knows a place that the database does not."""
    _tell(mine, "in the backup")
    lost = answered(mine.turn("lost", place=7), "kept")
    assert mine.store.finish(lost).place == 2
    assert _prompts(mine) == ["in the backup", "lost"]


# ── order is that of acceptance, not of time ─────────────────────────────────────────────────────────────────


def test_a_late_turn_stands_after_those_that_were_accepted_meanwhile_and_says_what_it_knew(mine: Functions) -> None:
    _tell(mine, "known to all")
    spooled = mine.turn("spooled", deferred=True, after_place=1)
    earlier = replace(spooled, started_at=spooled.started_at - timedelta(hours=1))
    _tell(mine, "meanwhile", "and again")
    assert mine.store.begin(earlier, WIDE).place == 4
    _tell(mine, "afterwards")
    turns = mine.store.turns(mine.principal, "c")
    assert [(turn.prompt, turn.deferred, turn.after_place) for turn in turns] == [
        ("known to all", False, None),
        ("meanwhile", False, None),
        ("and again", False, None),
        ("spooled", True, 1),
        ("afterwards", False, None),
    ]
    assert turns[3].started_at < turns[0].started_at
    mine.store.finish(answered(earlier, "at last"))
    begun = mine.store.begin(mine.turn("next"), WIDE)
    assert [turn.prompt for turn in begun.history] == [turn.prompt for turn in turns]


def test_a_deferred_turn_that_is_finished_unbegun_keeps_what_it_knew_too(mine: Functions) -> None:
    _tell(mine, "one", "two")
    mine.store.finish(answered(mine.turn("spooled", deferred=True, after_place=1)))
    assert [(turn.deferred, turn.after_place) for turn in mine.store.turns(mine.principal, "c", after=2)] == [(True, 1)]


# ── places are dense, whatever happens at once or is taken back ──────────────────────────────────────────────


def test_what_is_rolled_back_leaves_no_gap(mine: Functions) -> None:
    _tell(mine, "first")
    with mine.connection.transaction(force_rollback=True):
        assert mine.store.begin(mine.turn("rolled back"), WIDE).place == 2
    assert mine.store.begin(mine.turn("second"), WIDE).place == 2


def test_an_id_that_somebody_else_used_is_refused_and_takes_no_place(mine: Functions, server: Functions) -> None:
    theirs = server.turn("theirs")
    server.store.begin(theirs, WIDE)
    stolen = replace(theirs, principal=mine.principal)
    for attempt in (lambda: mine.store.begin(stolen, WIDE), lambda: mine.store.finish(answered(stolen))):
        with pytest.raises(TurnConflict):
            attempt()
    assert mine.store.begin(mine.turn("mine"), WIDE).place == 1
    assert [turn.outcome for turn in server.store.turns(server.principal, "c")] == [Outcome.RUNNING]


def test_a_turn_that_is_begun_and_finished_by_many_at_once_has_one_place_among_the_others(
    project: Database, mine: Functions
) -> None:
    shared = mine.turn("shared")

    def one(number: int) -> set[int]:
        with closing(Functions(project, mine.role, mine.principal)) as functions:
            own, store = mine.turn(f"own {number}"), functions.store
            begun = store.begin(own, WIDE).place
            of_shared = (store.finish(answered(shared)) if number % 2 else store.begin(shared, WIDE)).place
            assert store.finish(answered(own)).place == begun
            return {begun, of_shared}

    seen = at_once(one, range(12))
    turns = mine.store.turns(mine.principal, "c")
    assert [turn.place for turn in turns] == list(range(1, 14))
    (place,) = [turn.place for turn in turns if turn.prompt == "shared"]
    assert set.intersection(*seen) == {place}
    assert set.union(*seen) == set(range(1, 14))


def _tell(functions: Functions, *prompts: str, continuation_id: str = "c") -> None:
    for prompt in prompts:
        turn: Turn = functions.turn(prompt, continuation_id)
        functions.store.begin(turn, WIDE)
        functions.store.finish(answered(turn))


def _prompts(functions: Functions) -> list[str]:
    return [turn.prompt for turn in functions.store.turns(functions.principal, "c")]
