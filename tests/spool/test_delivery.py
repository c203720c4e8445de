"""One attempt to send something that waits: what is said, what is counted, and when the next one may be."""

from collections.abc import Callable
from typing import Any

import pytest

from perdure.errors import StoreError, StoreMisconfigured, StoreUnavailable
from perdure.middleware.persistence.breaker import Breaker
from perdure.middleware.persistence.spool import delivery as module
from perdure.middleware.persistence.spool.delivery import MOST_ATTEMPTS, Deliveries, Delivery, NotNow, Stuck


class Hours:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Waiting:
    """Something that waits. `error` is what its store says next; what becomes of it is noted, in order."""

    def __init__(self, name: str, error: Exception | None = None, *, attempts: int = 0) -> None:
        self.error = error
        self.became: list[tuple[str, str]] = []
        self.delivery = Delivery(
            name=name,
            attempts=attempts,
            send=self._send,
            drop=lambda: self.became.append(("dropped", "")),
            failed=self._noted("failed"),
            quarantine=self._noted("in quarantine"),
        )

    def _send(self) -> None:
        if self.error is not None:
            raise self.error

    def _noted(self, what: str) -> Callable[[str], None]:
        return lambda reason: self.became.append((what, reason))


AWAY = StoreUnavailable("The store is gone.", remedy="bring it back.")


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    hours = Hours()
    monkeypatch.setattr(module, "time", hours)
    return hours


@pytest.fixture
def breaker(hours: Hours) -> Breaker:
    return Breaker(failures=3, first_pause=2.0, longest_pause=10.0, now=hours.monotonic)


@pytest.fixture
def deliveries(breaker: Breaker) -> Deliveries:
    return Deliveries("parcel", breaker)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    """Level, event and what was said."""
    lines: list[tuple[str, str, dict[str, Any]]] = []

    class Log:
        def warning(self, event: str, **told: Any) -> None:
            lines.append(("warning", event, told))

        def error(self, event: str, **told: Any) -> None:
            lines.append(("error", event, told))

    monkeypatch.setattr(module, "log", Log())
    return lines


def stuck(deliveries: Deliveries, waiting: Waiting) -> str:
    with pytest.raises(Stuck) as raised:
        deliveries.attempt(waiting.delivery)
    return str(raised.value)


def not_now(deliveries: Deliveries, waiting: Waiting) -> NotNow:
    with pytest.raises(NotNow) as raised:
        deliveries.attempt(waiting.delivery)
    return raised.value


def goes(deliveries: Deliveries, name: str = "another") -> None:
    deliveries.attempt(Waiting(name).delivery)


def test_what_is_sent_is_dropped_and_its_store_has_answered(deliveries: Deliveries, breaker: Breaker) -> None:
    waiting = Waiting("one")
    deliveries.attempt(waiting.delivery)
    assert waiting.became == [("dropped", "")]
    assert breaker.has_succeeded_since(999.0)


def test_a_store_that_is_away_is_left_alone_after_three_failures_and_says_until_when(
    deliveries: Deliveries, breaker: Breaker, hours: Hours
) -> None:
    one, two, three, four = (Waiting(name, AWAY) for name in ("one", "two", "three", "four"))
    assert stuck(deliveries, one) == "The store is gone."
    assert stuck(deliveries, two) == "The store is gone."
    assert not breaker.is_open
    away = not_now(deliveries, three)
    assert (str(away), away.reason, away.seconds) == (str(AWAY), AWAY, 2.0)
    hours.now += 0.5
    left_alone = not_now(deliveries, four)
    assert left_alone.seconds == 1.5
    assert left_alone.reason.what == (
        "The store failed several times in a row and is left alone for a while (The store is gone.)."
    )
    assert [one.became, two.became, three.became, four.became] == [[], [], [], []]


def test_a_probe_that_fails_makes_the_pause_longer(deliveries: Deliveries, breaker: Breaker, hours: Hours) -> None:
    for name in ("one", "two"):
        stuck(deliveries, Waiting(name, AWAY))
    not_now(deliveries, Waiting("three", AWAY))
    hours.now += 2.0
    assert not_now(deliveries, Waiting("four", AWAY)).seconds == 4.0
    hours.now += 4.0
    goes(deliveries)
    assert not breaker.is_open


def test_what_is_no_error_of_a_store_is_told_by_its_kind(
    deliveries: Deliveries, said: list[tuple[str, str, dict[str, Any]]], hours: Hours
) -> None:
    assert stuck(deliveries, Waiting("one", RuntimeError("a bug"))) == "RuntimeError: a bug"
    assert said == [
        (
            "warning",
            "spool.not_sent",
            {
                "what": "A parcel that waits could not be sent (RuntimeError: a bug).",
                "remedy": "none, if that passes: it is tried again. `perdure spool status` says what waits.",
            },
        )
    ]
    stuck(deliveries, Waiting("two", RuntimeError("a bug")))
    reason = not_now(deliveries, Waiting("three", RuntimeError("a bug"))).reason
    assert (type(reason), reason.what) == (StoreUnavailable, "RuntimeError: a bug")
    assert len(said) == 1, "the same reason, within a minute"


def test_what_failed_is_tried_again_after_a_quarter_of_a_second(deliveries: Deliveries, hours: Hours) -> None:
    assert deliveries.seconds_until("one") == 0.0
    one = Waiting("one", AWAY)
    stuck(deliveries, one)
    assert deliveries.seconds_until("one") == 0.25
    assert stuck(deliveries, one) == "next attempt in 0 s"
    assert deliveries.seconds_until("another") == 0.0
    hours.now += 0.25
    assert deliveries.seconds_until("one") == 0.0
    one.error = None
    deliveries.attempt(one.delivery)
    assert one.became == [("dropped", "")]
    assert deliveries.seconds_until("one") == 0.0, "it is forgotten"


def test_the_pause_of_what_fails_while_others_go_doubles_up_to_a_minute(
    deliveries: Deliveries, breaker: Breaker, hours: Hours
) -> None:
    one = Waiting("one", AWAY)
    stuck(deliveries, one)
    pauses = []
    for _ in range(9):
        hours.now += 60.0
        goes(deliveries)
        stuck(deliveries, one)
        pauses.append(deliveries.seconds_until("one"))
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert one.became == [("failed", "The store is gone.")] * 9
    assert not breaker.is_open, "the store takes others"
    hours.now += 60.0
    one.error = None
    deliveries.attempt(one.delivery)
    stuck(deliveries, again := Waiting("one", AWAY))
    assert deliveries.seconds_until("one") == 0.25, "what went is forgotten, how often it failed too"
    assert again.became == []


def test_a_reason_to_wait_is_told_in_whole_seconds(deliveries: Deliveries, hours: Hours) -> None:
    one = Waiting("one", AWAY)
    stuck(deliveries, one)
    for _ in range(4):
        hours.now += 60.0
        goes(deliveries)
        stuck(deliveries, one)
    assert stuck(deliveries, one) == "next attempt in 4 s"


def test_what_fails_twenty_times_while_others_go_is_put_aside(deliveries: Deliveries, hours: Hours) -> None:
    patient = Waiting("one", AWAY, attempts=MOST_ATTEMPTS - 2)
    stuck(deliveries, patient)
    hours.now += 60.0
    goes(deliveries)
    stuck(deliveries, patient)
    assert patient.became == [("failed", "The store is gone.")]
    hours.now += 60.0
    goes(deliveries)
    spent = Waiting("one", AWAY, attempts=MOST_ATTEMPTS - 1)
    deliveries.attempt(spent.delivery)
    assert spent.became == [("in quarantine", "The store is gone. (20 times, while others were taken)")]
    assert deliveries.seconds_until("one") == 0.0, "it is forgotten"


def test_an_outage_spends_no_attempt(deliveries: Deliveries, breaker: Breaker, hours: Hours) -> None:
    goes(deliveries)  # before its first failure: that proves nothing
    one = Waiting("one", AWAY, attempts=MOST_ATTEMPTS)
    stuck(deliveries, one)
    hours.now += 1.0
    stuck(deliveries, one)
    hours.now += 1.0
    not_now(deliveries, one)
    assert breaker.is_open
    assert one.became == []


def test_a_probe_of_what_failed_while_others_went_is_a_failure_of_the_store_too(
    deliveries: Deliveries, breaker: Breaker, hours: Hours
) -> None:
    one = Waiting("one", AWAY)
    stuck(deliveries, one)
    hours.now += 1.0
    goes(deliveries)
    for name in ("two", "three"):
        stuck(deliveries, Waiting(name, AWAY))
    not_now(deliveries, Waiting("four", AWAY))
    hours.now += 2.0
    away = not_now(deliveries, one)
    assert away.seconds == 4.0
    assert one.became == [("failed", "The store is gone.")], "others went since its first attempt"


def test_what_the_store_refuses_is_put_aside_at_once_and_holds_up_nothing(
    deliveries: Deliveries, breaker: Breaker, hours: Hours, said: list[tuple[str, str, dict[str, Any]]]
) -> None:
    stuck(deliveries, Waiting("two", AWAY))
    one = Waiting("one", AWAY)
    stuck(deliveries, one)
    said.clear()
    hours.now += 1.0
    one.error = StoreError("No such thing is taken.", remedy="none.")
    deliveries.attempt(one.delivery)
    assert one.became == [("in quarantine", "No such thing is taken.")]
    assert deliveries.seconds_until("one") == 0.0, "it is forgotten"
    assert breaker.has_succeeded_since(1000.5), "it answers"
    assert said == [
        (
            "error",
            "spool.quarantined",
            {
                "what": "The store refused a parcel that waited for it (No such thing is taken.).",
                "remedy": "see `perdure spool quarantine`; it holds up nothing else.",
                "id": "one",
            },
        )
    ]


def test_a_store_that_somebody_must_mend_is_asked_every_five_seconds_and_is_not_away(
    deliveries: Deliveries, breaker: Breaker, hours: Hours, said: list[tuple[str, str, dict[str, Any]]]
) -> None:
    error = StoreMisconfigured("The key is wrong.", remedy="mend the key.")
    held = Waiting("one", error)
    hours.now += 1.0
    away = not_now(deliveries, held)
    assert (away.reason, away.seconds) == (error, 5.0)
    assert breaker.has_succeeded_since(1000.5), "it answers"
    assert [line[2]["what"] for line in said] == ["A parcel that waits could not be sent (The key is wrong.)."]
    assert held.became == []
    assert deliveries.seconds_until("one") == 0.0
