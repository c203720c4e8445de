"""The threads of a drainer: when they begin, how many there are, when they look again, and when they end."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spool.conftest import prompts
from spool.draining import BREAKER_PAUSE, Draining, Hours

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.spool import drainer as module
from perdure.middleware.persistence.spool.spooled_turns import ConversationKey, SpooledTurns
from perdure.testing.faulty_store import Hang

C = ConversationKey("alice", "c")
AWAY = StoreUnavailable("No route.", remedy="look at the network.")


def while_it_hangs(draining: Draining, *conversations: str) -> Hang:
    """With a turn in each of these, and the first of them just being sent."""
    hang = draining.store.hang("finish")
    for conversation in conversations:
        draining.keep(conversation, conversation)
    draining.drainer.wake()
    assert hang.entered.wait(5)
    return hang


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it never was")


def _do_nothing() -> None: ...


# ── beginning and ending ─────────────────────────────────────────────────────────────────────────────────────


def test_a_thread_begins_when_something_waits_and_ends_when_nothing_does(draining: Draining) -> None:
    draining.keep("one")
    assert draining.threads() == []
    draining.wake_and_wait()
    draining.keep("two")
    draining.wake_and_wait()
    assert prompts(draining.store.inner) == ["one", "two"]
    assert draining.moments.pauses == []


def test_a_thread_keeps_no_process_alive_and_says_whose_it_is(draining: Draining) -> None:
    while_it_hangs(draining, "c")
    [thread] = draining.threads()
    assert (thread.name, thread.daemon) == ("perdure-spool", True)


def test_a_thread_that_is_woken_for_nothing_ends_at_once(draining: Draining) -> None:
    draining.wake_and_wait()
    assert draining.moments.pauses == []


def test_what_comes_just_when_a_thread_has_found_nothing_is_sent_all_the_same(
    draining: Draining, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations, to_come = SpooledTurns.conversations, ["late"]

    def then_one_comes(turns: SpooledTurns) -> Iterator[ConversationKey]:
        yield from conversations(turns)
        for prompt in to_come:
            draining.keep(prompt)
            draining.drainer.wake()
        to_come.clear()

    monkeypatch.setattr(SpooledTurns, "conversations", then_one_comes)
    draining.moments.happens = [_do_nothing]
    draining.wake_and_wait()
    assert draining.moments.pauses == [(1.0, True)]
    assert prompts(draining.store.inner) == ["late"]


def test_further_turns_of_a_conversation_need_no_further_thread(draining: Draining) -> None:
    hang = while_it_hangs(draining, "c")
    draining.keep("more")
    draining.drainer.wake()
    assert len(draining.threads()) == 1
    hang.release()
    draining.wait_for_threads()
    assert prompts(draining.store.inner) == ["c", "more"]


@pytest.mark.parametrize(
    ("options", "conversations", "threads", "asked"),
    [({}, "a", 1, 1), ({}, "ab", 2, 2), ({}, "abcdefgh", 3, 6), ({"most_threads": 2}, "abcdefgh", 2, 4)],
)
def test_further_conversations_have_further_threads_up_to_a_number(
    tmp_path: Path, hours: Hours, options: dict[str, int], conversations: str, threads: int, asked: int
) -> None:
    draining = Draining(tmp_path, hours, **options)
    for _ in conversations:  # each thread sends one, and hangs with the next
        draining.store.delay("finish", seconds=0, times=1)
        draining.store.hang("finish", times=1)
    begun = count_threads(draining, each_waits_for=lambda before: draining.store.calls("finish") == 2 * before)
    for name in conversations:
        draining.keep(name, name)
    draining.drainer.wake()
    eventually(lambda: draining.store.calls("finish") == asked and len(begun) == threads)
    draining.store.heal()
    draining.wait_for_threads()
    assert draining.store.calls("finish") == len(conversations)
    assert [prompts(draining.store.inner, name) for name in conversations] == [[name] for name in conversations]
    draining.close()


def test_threads_that_can_send_nothing_do_not_start_one_another(draining: Draining) -> None:
    begun = count_threads(draining)
    with draining.turns.leased(ConversationKey("alice", "a")), draining.turns.leased(ConversationKey("alice", "b")):
        for name in "ab":
            draining.keep(name, name)
        draining.moments.happens = [_do_nothing, _do_nothing]
        draining.wake_and_wait()
    assert draining.moments.pauses == [(1.0, False)] * 3
    assert len(begun) == 1


def count_threads(draining: Draining, each_waits_for: Callable[[int], bool] = lambda _before: True) -> list[int]:
    """For each that begins, how many did before it."""
    begun: list[int] = []
    work = draining.drainer._work

    def counted() -> None:
        before = len(begun)
        begun.append(before)
        eventually(lambda: each_waits_for(before))
        work()

    draining.drainer._work = counted  # type: ignore[method-assign]
    return begun


# ── looking again ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_somebody_else_is_sending_is_looked_at_again_after_a_second(draining: Draining) -> None:
    draining.keep("waits")
    leased = draining.turns.leased(C)
    leased.__enter__()
    draining.moments.happens = [_do_nothing, lambda: leased.__exit__(None, None, None)]
    draining.wake_and_wait()
    assert draining.moments.pauses == [(1.0, False)] * 2
    assert prompts(draining.store.inner) == ["waits"]


def test_a_further_turn_cuts_such_a_pause_short(draining: Draining) -> None:
    draining.keep("theirs")

    def one_comes() -> None:
        draining.keep("ours", "d")
        draining.drainer.wake()

    with draining.turns.leased(C):
        draining.moments.happens = [one_comes]
        draining.wake_and_wait()
    assert draining.moments.pauses == [(1.0, True), (1.0, False)]
    assert prompts(draining.store.inner, "d") == ["ours"]


def test_a_store_that_is_away_is_left_alone_as_long_as_its_breaker_says_and_further_turns_are_no_news(
    draining: Draining, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "perdure")
    draining.store.fail(error=AWAY, times=1)
    draining.keep("one")

    def one_comes() -> None:
        draining.keep("two")
        draining.drainer.wake()

    draining.moments.happens = [one_comes]
    draining.wake_and_wait()
    assert draining.moments.pauses == [(BREAKER_PAUSE, False)]
    assert prompts(draining.store.inner) == ["one", "two"]
    assert "perdure: spool.waits: No route. Remedy: look at the network." in [
        record.getMessage() for record in caplog.records
    ]


@pytest.mark.parametrize("error", [AWAY, OSError(5, "the disk is gone")], ids=["the store", "the spool"])
def test_of_several_threads_that_can_send_nothing_now_one_is_left_to_wait(
    draining: Draining, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    where = draining.store.inner if error is AWAY else draining.turns
    name = "finish" if error is AWAY else "drop"
    work, fails = getattr(where, name), False

    def may_fail(*given: object) -> object:
        if fails:
            raise error
        return work(*given)

    def wait_for_the_other() -> None:
        draining.moments.hold_while(lambda: len(draining.threads()) > 1)

    def mend() -> None:
        nonlocal fails
        fails = False

    monkeypatch.setattr(where, name, may_fail)
    draining.store.delay("finish", seconds=0, times=1)
    hang = while_it_hangs(draining, "a", "b", "c")
    eventually(lambda: draining.store.calls("finish") == 3)
    assert len(draining.threads()) == 2
    fails = True
    draining.moments.happens = [wait_for_the_other, mend]
    hang.release()
    draining.wait_for_threads()
    assert len(draining.moments.who_paused) == 1
    assert [draining.waiting(name) for name in "abc"] == [0, 0, 0]


def test_a_spool_that_cannot_be_read_is_tried_again_after_five_seconds(
    draining: Draining, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_turns: SpooledTurns) -> object:
        raise OSError(5, "the disk is gone")

    draining.keep("waits")
    with monkeypatch.context() as while_it_fails:
        while_it_fails.setattr(SpooledTurns, "conversations", fail)
        draining.moments.happens = [draining.drainer.wake, while_it_fails.undo]
        draining.wake_and_wait()
    assert draining.moments.pauses == [(5.0, False), (5.0, False)]
    assert prompts(draining.store.inner) == ["waits"]
    assert [record.getMessage() for record in caplog.records if record.name == "perdure"] == [
        "perdure: spool.not_sent: A turn that waits could not be sent (OSError: [Errno 5] the disk is gone). "
        "Remedy: none, if that passes: it is tried again. `perdure spool status` says what waits."
    ]


# ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_stopping_waits_for_what_is_being_sent_and_leaves_the_rest(
    draining: Draining, caplog: pytest.LogCaptureFixture
) -> None:
    hang = while_it_hangs(draining, "a", "b")
    draining.moments.in_wait = lambda: hang.release() or draining.moments.really_wait()  # type: ignore[func-returns-value]
    draining.drainer.stop(4.0)
    assert draining.moments.waits[0] == 4.0
    draining.wait_for_threads()
    assert [prompts(draining.store.inner, name) for name in "ab"] == [["a"], []]
    assert draining.waiting("b") == 1
    assert caplog.records == []


def test_stopping_waits_no_longer_than_it_may(draining: Draining, hours: Hours) -> None:
    hang = while_it_hangs(draining, "a")

    def something_else_changes() -> bool:
        hours.now += 3
        return len(draining.moments.waits) < 2

    draining.moments.in_wait = something_else_changes
    draining.drainer.stop()
    assert draining.moments.waits == [5.0, 2.0]
    hang.release()


def test_stopping_waits_for_nothing_where_nothing_is_being_sent(draining: Draining) -> None:
    draining.drainer.stop()
    assert draining.moments.waits == []


def test_stopping_keeps_further_files_from_being_sent(draining: Draining) -> None:
    draining.file_store.goes_on.clear()
    keys = sorted([draining.keep_file(b"one"), draining.keep_file(b"two")])
    draining.drainer.wake()
    assert draining.file_store.asked.wait(5)
    draining.moments.in_wait = draining.moments.time_is_up
    draining.drainer.stop()
    draining.file_store.goes_on.set()
    draining.wait_for_threads()
    assert draining.waiting_files() == keys[1:]


def test_stopping_cuts_every_pause_short(draining: Draining) -> None:
    draining.keep("waits")
    draining.store.fail(error=AWAY)
    draining.moments.happens = [draining.moments.stop]
    draining.wake_and_wait()
    assert draining.moments.pauses == [(BREAKER_PAUSE, True)]


def test_once_stopped_it_begins_nothing(draining: Draining) -> None:
    draining.drainer.stop()
    draining.keep("waits")
    draining.drainer.wake()
    assert draining.threads() == []
    assert draining.waiting() == 1


# ── flush ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flushing_begins_to_send_and_returns_when_all_is_sent(draining: Draining) -> None:
    for name in "abc":
        draining.keep(name, name)
    draining.drainer.flush(60.0)
    assert [prompts(draining.store.inner, name) for name in "abc"] == [["a"], ["b"], ["c"]]
    draining.moments.waits.clear()
    draining.moments.in_wait = draining.moments.time_is_up
    draining.drainer.stop()
    assert draining.moments.waits == [], "a thread was still there"


def test_flushing_waits_no_longer_than_it_may(draining: Draining, hours: Hours) -> None:
    hang = while_it_hangs(draining, "a")

    def something_else_changes() -> bool:
        hours.now += 3
        return len(draining.moments.waits) < 2

    draining.moments.in_wait = something_else_changes
    draining.drainer.flush(8.0)
    assert draining.moments.waits == [8.0, 5.0]
    hang.release()


def test_flushing_returns_when_the_store_is_away(draining: Draining) -> None:
    draining.keep("waits")
    draining.store.fail(error=AWAY)
    draining.moments.happens = [draining.moments.hold]
    notified: list[bool] = []
    draining.moments.in_wait = lambda: notified.append(draining.moments.really_wait()) or notified[-1]  # type: ignore[func-returns-value]
    draining.drainer.flush(60.0)
    assert all(notified)
    assert len(draining.threads()) == 1, "it is in its pause"
    notified.clear()
    draining.drainer.flush(60.0)
    assert notified == []


# ── at exit, and in a forked child ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def several(tmp_path: Path, hours: Hours) -> Iterator[Callable[[], Draining]]:
    made: list[Draining] = []

    def make() -> Draining:
        folder = tmp_path / f"{len(made)}"
        folder.mkdir()
        made.append(Draining(folder, hours))
        return made[-1]

    yield make
    for draining in made:
        draining.close()


def test_at_exit_all_together_are_given_a_second_and_a_half(several: Callable[[], Draining], hours: Hours) -> None:
    busy = [several() for _ in range(3)]

    def a_second_passes() -> bool:
        hours.now += 1
        return False

    hangs = [while_it_hangs(draining, "a") for draining in busy]
    for draining in busy:
        draining.moments.in_wait = a_second_passes
    module._at_exit()
    assert sorted(wait or 0 for draining in busy for wait in draining.moments.waits) == [0, 0.5, 1.5]
    for hang in hangs:
        hang.release()


def test_at_exit_nobody_waits_for_a_store_that_is_away_or_where_nothing_is_being_sent(
    several: Callable[[], Draining],
) -> None:
    away, idle = several(), several()
    away.keep("waits")
    away.store.fail(error=AWAY)
    reached = threading.Event()

    def stay() -> None:
        reached.set()
        away.moments.hold()

    away.moments.happens = [stay]
    away.drainer.wake()
    assert reached.wait(5)
    with away.moments:
        woken = away.drainer._woken
    idle.keep("waits")
    module._at_exit()
    assert (away.moments.waits, idle.moments.waits) == ([], [])
    assert away.drainer._woken == woken
    assert idle.waiting() == 1


def test_a_forked_child_knows_that_its_parents_threads_are_not_its_own(draining: Draining) -> None:
    """As the child finds it: its parent had threads, one of which held the lock and had said that the store is away."""
    drainer = draining.drainer
    drainer._threads, drainer._is_away = 3, True
    lock, is_held, child_is_done = drainer._changed, threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            child_is_done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(5)
    deliveries = drainer._turn_deliveries, drainer._file_deliveries
    draining.keep("waits")
    module._after_fork()
    assert not drainer._is_away
    drainer.flush(5)
    assert holder.is_alive(), "it waited for a lock that nobody will ever release"
    child_is_done.set()
    holder.join()
    draining.wait_for_threads()
    assert prompts(draining.store.inner) == ["waits"]
    assert (drainer._turn_deliveries in deliveries, drainer._file_deliveries in deliveries) == (False, False)
