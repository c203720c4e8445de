"""A store that fails again and again is left alone for a while; one attempt at a time finds out whether it is back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from perdure.errors import StoreLeftAlone, StoreMisconfigured, StoreTimeout, StoreUnavailable, TurnConflict
from perdure.middleware.persistence.breaker import Breaker


class Hours:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
def breaker(hours: Hours) -> Iterator[Breaker]:
    return Breaker(failures=3, first_pause=2.0, longest_pause=10.0, now=hours)


def attempt(breaker: Breaker, error: Exception | None = None) -> None:
    with breaker.watching():
        if error is not None:
            raise error


def fail(breaker: Breaker, times: int, error: type[Exception] = StoreUnavailable) -> None:
    for _ in range(times):
        with pytest.raises(error):
            attempt(breaker, error("gone"))


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not(breaker: Breaker) -> None:
    fail(breaker, 2)
    attempt(breaker)
    fail(breaker, 2)
    attempt(breaker)
    fail(breaker, 3, StoreTimeout)
    with pytest.raises(StoreLeftAlone, match="several times in a row"):
        attempt(breaker)


def test_one_failure_that_several_calls_share_counts_once(breaker: Breaker) -> None:
    for _ in range(2):
        shared = StoreUnavailable("gone")
        for _call in range(10):
            with pytest.raises(StoreUnavailable):
                attempt(breaker, shared)
    attempt(breaker)


def test_what_a_store_refuses_or_what_is_not_set_up_does_not_open_it(breaker: Breaker) -> None:
    fail(breaker, 10, StoreMisconfigured)
    fail(breaker, 10, TurnConflict)
    attempt(breaker)


def test_a_refusal_between_failures_is_an_answer(breaker: Breaker, hours: Hours) -> None:
    fail(breaker, 2)
    fail(breaker, 1, TurnConflict)
    fail(breaker, 2)
    attempt(breaker)
    fail(breaker, 3)
    hours.now += 10.0
    fail(breaker, 1, TurnConflict)
    assert not breaker.is_open


def test_after_the_pause_one_probe_goes_through_and_the_others_go_on_waiting(breaker: Breaker, hours: Hours) -> None:
    fail(breaker, 3)
    hours.now += 1.9
    with pytest.raises(StoreLeftAlone):
        breaker.admit()
    hours.now += 0.1
    breaker.admit()
    with pytest.raises(StoreLeftAlone):
        breaker.admit()
    breaker.succeeded()
    breaker.admit()


def test_each_probe_that_fails_doubles_the_pause_up_to_the_longest(breaker: Breaker, hours: Hours) -> None:
    fail(breaker, 3)
    pauses = []
    for _ in range(5):
        pauses.append(breaker.seconds_to_probe())
        hours.now += breaker.seconds_to_probe()
        breaker.admit()
        breaker.failed("still gone")
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0]


def test_those_under_way_when_it_opens_are_no_probes(breaker: Breaker) -> None:
    with ExitStack() as calls:
        for _ in range(60):  # as many as a server has at once
            calls.enter_context(pytest.raises(StoreUnavailable))
            calls.enter_context(breaker.watching())
            calls.enter_context(_failing())
    assert breaker.is_open
    assert breaker.seconds_to_probe() == 2.0


@contextmanager
def _failing() -> Iterator[None]:
    yield
    raise StoreUnavailable("gone")


def test_calls_leave_the_probe_to_others_for_some_seconds_and_then_make_it_themselves(
    breaker: Breaker, hours: Hours
) -> None:
    fail(breaker, 3)
    hours.now += 2.0
    with pytest.raises(StoreLeftAlone):
        attempt(breaker)
    hours.now += 5.0
    attempt(breaker)
    assert not breaker.is_open


def test_one_that_never_opens_never_opens() -> None:
    breaker = Breaker.never_opening()
    fail(breaker, 1000)
    attempt(breaker)
