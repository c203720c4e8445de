"""The rate at which turns of one principal are kept."""

import random
import tracemalloc

import pytest

from perdure.middleware.persistence import rate as module
from perdure.middleware.persistence.rate import Rate


class Time:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def rate(time: Time) -> Rate:
    return Rate(time)


def test_the_turns_of_a_minute_may_come_at_once_and_the_next_when_its_time_has_come(rate: Rate, time: Time) -> None:
    assert [rate.seconds_to_wait("ann", 6) for _ in range(6)] == [0] * 6
    assert rate.seconds_to_wait("ann", 6) == pytest.approx(10)
    time.now += 9
    assert rate.seconds_to_wait("ann", 6) == pytest.approx(1)
    time.now += 1
    assert rate.seconds_to_wait("ann", 6) == 0
    assert rate.seconds_to_wait("ann", 6) == pytest.approx(10)


def test_what_is_not_kept_does_not_count(rate: Rate, time: Time) -> None:
    for _ in range(100):
        rate.seconds_to_wait("ann", 6)
    time.now += 60
    assert [rate.seconds_to_wait("ann", 6) for _ in range(6)] == [0] * 6


def test_one_principal_never_holds_up_another(rate: Rate) -> None:
    for _ in range(100):
        rate.seconds_to_wait("mallory", 6)
    assert [rate.seconds_to_wait("ann", 6) for _ in range(6)] == [0] * 6


def test_in_any_hour_no_more_are_kept_than_an_hour_and_one_minute_hold(rate: Rate, time: Time) -> None:
    chance = random.Random(7)
    kept = 0
    end = time.now + 3600
    while time.now < end:
        kept += rate.seconds_to_wait("ann", 30) == 0
        time.now += chance.expovariate(4)
    assert 30 * 60 <= kept <= 30 * 61


def test_memory_is_bounded_and_whoever_is_over_the_rate_is_not_forgotten(rate: Rate, time: Time) -> None:
    assert [rate.seconds_to_wait("mallory", 600) for _ in range(600)] == [0] * 600
    tracemalloc.start()
    for number in range(3 * module._MOST_PRINCIPALS):
        assert rate.seconds_to_wait(f"visitor {number}", 600) == 0
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rate._full_at) <= module._MOST_PRINCIPALS
    assert used < 4_000_000
    assert rate.seconds_to_wait("mallory", 600) > 0


def test_those_whose_minute_is_over_are_forgotten_first(rate: Rate, time: Time) -> None:
    for number in range(module._MOST_PRINCIPALS):
        rate.seconds_to_wait(f"visitor {number}", 60)
    time.now += 60
    rate.seconds_to_wait("ann", 60)
    assert list(rate._full_at) == ["ann"]
