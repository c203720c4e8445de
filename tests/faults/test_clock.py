"""A clock that jumps or differs changes what times say, and nothing else."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.ports import Store
from perdure.middleware.persistence.rate import Rate
from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Window, new_turn_id
from perdure.testing import FrozenClock
from perdure.testing.turns import a_turn, answered

WIDE = Window(turns=100, tokens=100_000)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FrozenClock) -> Store:
    return MemoryStore(clock) if request.param == "memory" else SqliteStore(tmp_path / "perdure.db", clock)


def test_turns_stand_in_the_order_in_which_they_were_accepted_whatever_the_clocks_say(
    store: Store, clock: FrozenClock
) -> None:
    jumps = [timedelta(0), timedelta(days=-400), timedelta(days=800), timedelta(hours=-1), timedelta(0)]
    for number, jump in enumerate(jumps):
        clock.advance(jump)
        now = clock.now()
        turn = a_turn(f"{number}", continuation_id="c", id=new_turn_id(now), started_at=now)
        begun = store.begin(turn, WIDE)
        assert [earlier.prompt for earlier in begun.history] == [str(earlier) for earlier in range(number)]
        store.finish(answered(turn))
    turns = store.turns("alice", "c")
    assert [(turn.prompt, turn.place) for turn in turns] == [(f"{number}", number + 1) for number in range(5)]
    store.close()


def test_a_turn_that_ended_before_it_began_is_kept_as_its_clocks_told(store: Store) -> None:
    turn = a_turn("p", continuation_id="c")
    store.begin(turn, WIDE)
    store.finish(answered(turn).changed(ended_at=turn.started_at - timedelta(days=1)))
    (kept,) = store.turns("alice", "c")
    assert kept.answer is not None
    assert kept.ended_at is not None
    assert kept.ended_at < kept.started_at
    store.close()


def test_the_rate_and_the_breaker_do_not_look_at_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    rate, breaker = Rate(), Breaker(failures=1, first_pause=3600, longest_pause=3600)
    rate.seconds_to_wait("ann", 1)
    breaker.failed("away")
    monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
    assert rate.seconds_to_wait("ann", 1) > 50
    assert breaker.seconds_to_probe() > 3000
