"""What a drainer sends, in which order, and what becomes of what a store does not take."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spool.conftest import prompts
from spool.draining import BREAKER_PAUSE, Draining, Hours

from perdure import Outcome
from perdure.errors import StoreUnavailable, TurnRefused, TurnsWaiting
from perdure.middleware.persistence.spool.leases import lease
from perdure.middleware.persistence.spool.spooled_turns import ConversationKey
from perdure.testing.turns import a_turn

C = ConversationKey("alice", "c")
CANNOT = StoreUnavailable("No route.", remedy="look at the network.")


@pytest.fixture
def patient(tmp_path: Path, hours: Hours) -> Iterator[Draining]:
    """Its breakers open only after many failures."""
    made = Draining(tmp_path, hours, failures=1000)
    yield made
    made.close()


def fail_for(draining: Draining, prompt: str, monkeypatch: pytest.MonkeyPatch, error: Exception = CANNOT) -> None:
    """Have the store fail for this one, until `monkeypatch.undo`."""
    finish = draining.store.inner.finish

    def fail(turn: object) -> object:
        if getattr(turn, "prompt", "") == prompt:
            raise error
        return finish(turn)  # type: ignore[arg-type]

    monkeypatch.setattr(draining.store.inner, "finish", fail)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "perdure"]


# ── one conversation, in the thread of a call ────────────────────────────────────────────────────────────────


def test_all_that_waits_of_a_conversation_goes_in_its_order_however_much_it_is(draining: Draining) -> None:
    for number in range(25):
        draining.keep(f"{number}")
    draining.keep("of another", "d")
    assert draining.drainer.send_conversation(C) is True
    assert prompts(draining.store.inner) == [f"{number}" for number in range(25)]
    assert (draining.waiting(), draining.waiting("d")) == (0, 1)


def test_where_nothing_waits_all_went(draining: Draining) -> None:
    assert draining.drainer.send_conversation(C) is True


def test_a_conversation_that_somebody_else_is_sending_is_left_to_them(draining: Draining) -> None:
    draining.keep("waits")
    with draining.turns.leased(C):
        assert draining.drainer.send_conversation(C) is False
    assert draining.waiting() == 1
    assert draining.store.calls("finish") == 0


def test_a_sender_whose_time_has_passed_leaves_the_rest_to_whoever_goes_on(draining: Draining, hours: Hours) -> None:
    for prompt in ("one", "two"):
        draining.keep(prompt)
    others = lease(draining.database, "here\0turns\0alice\0c")

    def somebody_else_goes_on(_seconds: float) -> None:
        hours.now += 20
        assert others.__enter__() is not None

    draining.store.delay("finish", seconds=0, sleep=somebody_else_goes_on, times=1)
    assert draining.drainer.send_conversation(C) is False
    assert (prompts(draining.store.inner), draining.waiting()) == (["one"], 1)
    others.__exit__(None, None, None)
    assert draining.drainer.send_conversation(C) is True


def test_a_call_is_told_why_the_store_is_away(draining: Draining) -> None:
    draining.keep("waits")
    draining.store.fail(error=CANNOT)
    with pytest.raises(StoreUnavailable) as raised:
        draining.drainer.send_conversation(C)
    assert raised.value is CANNOT
    assert draining.waiting() == 1


def test_a_call_is_told_which_turn_holds_it_up_and_where_to_look(patient: Draining) -> None:
    patient.keep("waits")
    patient.store.fail(error=CANNOT)
    with pytest.raises(TurnsWaiting) as raised:
        patient.drainer.send_conversation(C)
    assert raised.value.what == "An earlier turn of the conversation could not be sent (No route.)."
    assert raised.value.remedy == "see `perdure spool status`."


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_intent_is_begun_and_asks_for_no_history(draining: Draining) -> None:
    turn = a_turn("asks", continuation_id="c")
    draining.turns.keep(turn)
    windows = []
    begin = draining.store.begin
    draining.store.begin = lambda turn, window: windows.append(window) or begin(turn, window)  # type: ignore[method-assign,func-returns-value]
    assert draining.drainer.send_conversation(C) is True
    assert [kept.outcome for kept in draining.store.inner.turns("alice", "c")] == [Outcome.RUNNING]
    assert [(window.turns, window.tokens) for window in windows] == [(0, 0)]
    assert draining.store.calls("finish") == 0


def test_a_turn_that_is_refused_is_set_apart_and_the_next_one_goes(
    draining: Draining, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = draining.keep("poison")
    draining.keep("next")
    fail_for(draining, "poison", monkeypatch, TurnRefused("It holds a unicorn."))
    assert draining.drainer.send_conversation(C) is True
    assert prompts(draining.store.inner) == ["next"]
    assert draining.set_apart() == [(poison.id, "It holds a unicorn.")]
    assert said(caplog) == [
        "perdure: spool.quarantined: The store refused a turn that waited for it (It holds a unicorn.). Remedy: see "
        f"`perdure spool quarantine`; it holds up nothing else. id={poison.id!r}"
    ]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("no JSON", "Expecting value: line 1 column 1 (char 0)"),
        ("{}", "'started_at'"),
        ("7", "'int' object is not subscriptable"),
    ],
)
def test_a_record_that_this_perdure_cannot_read_is_set_apart(draining: Draining, record: str, why: str) -> None:
    turn = draining.keep("waits")

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE spooled_turns SET turn = ?", (record,))

    draining.database.write(write)
    [spooled] = draining.turns.next(C)
    assert draining.drainer.send_conversation(C) is True
    assert draining.set_apart() == [(turn.id, f"The record that waited is no turn that this perdure can read ({why}).")]
    with pytest.raises(Exception) as raised:
        draining.drainer._of_turn(spooled).send()
    assert getattr(raised.value, "remedy", "") == "read it with the perdure that wrote it."


def test_a_turn_that_fails_while_others_are_taken_counts_and_ends_in_quarantine(
    patient: Draining, hours: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = patient.keep("poison")
    [spooled] = patient.turns.next(C)
    for _ in range(18):
        patient.turns.failed(spooled, "earlier")
    fail_for(patient, "poison", monkeypatch)
    tried = []
    for number in range(3):
        with pytest.raises(TurnsWaiting) if number < 2 else _nothing():
            patient.drainer.send_conversation(C)
        tried.append([spooled.attempts for spooled in patient.turns.next(C)])
        hours.now += 10
        patient.keep(f"{number}", "others")
        patient.drainer.send_conversation(ConversationKey("alice", "others"))
        hours.now += 10
    assert tried == [[18], [19], []]
    assert patient.set_apart() == [(poison.id, "No route. (20 times, while others were taken)")]


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_go_to_their_store_under_their_key_and_type(draining: Draining) -> None:
    one, two = draining.keep_file(b"one", "text/plain"), draining.keep_file(b"two", "image/png")
    draining.wake_and_wait()
    assert draining.file_store.media_types == {one: "text/plain", two: "image/png"}
    with draining.file_store.read(one) as content:
        assert content.read() == b"one"
    assert draining.waiting_files() == []
    assert draining.moments.pauses == []


def test_a_file_whose_content_arrived_another_way_is_done_with(draining: Draining) -> None:
    key = draining.keep_file(b"one")
    draining.file_store.put(key, draining.the_file().content, media_type="text/plain")  # takes it away
    draining.wake_and_wait()
    assert (draining.waiting_files(), draining.set_apart()) == ([], [])


def test_a_file_whose_content_is_gone_is_set_apart_and_holds_up_no_other(
    draining: Draining, caplog: pytest.LogCaptureFixture
) -> None:
    gone = draining.keep_file(b"one")
    draining.the_file().content.unlink()
    [delivered] = [draining.drainer._of_file(file) for file in draining.files.waiting()]
    draining.keep_file(b"two")
    draining.wake_and_wait()
    reason = "The content that waited is not there any more."
    assert draining.set_apart() == [(gone, reason)]
    assert draining.waiting_files() == []
    assert said(caplog) == [
        f"perdure: spool.quarantined: The store refused a file that waited for it ({reason}). Remedy: see "
        f"`perdure spool quarantine`; it holds up nothing else. id={gone!r}"
    ]
    with pytest.raises(Exception) as raised:
        delivered.send()
    assert getattr(raised.value, "remedy", "") == "look at the disk."


def test_a_file_that_somebody_else_is_sending_is_left_and_the_others_go(draining: Draining) -> None:
    theirs, ours = sorted([draining.keep_file(b"one"), draining.keep_file(b"two")])
    file = next(iter(draining.files.waiting()))
    leased = draining.files.leased(file)
    leased.__enter__()
    draining.moments.happens = [lambda: leased.__exit__(None, None, None)]
    draining.wake_and_wait()
    assert list(draining.file_store.media_types) == [ours, theirs]
    assert draining.moments.pauses == [(1.0, False)]


def test_a_file_that_fails_holds_up_no_other_and_is_tried_again(
    patient: Draining, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted([patient.keep_file(b"one"), patient.keep_file(b"two")])
    put, fails = patient.file_store.put, [first]

    def fail_once(key: str, snapshot: Path, *, media_type: str) -> None:
        if key in fails:
            fails.remove(key)
            raise CANNOT
        put(key, snapshot, media_type=media_type)

    monkeypatch.setattr(patient.file_store, "put", fail_once)
    patient.moments.happens = [_do_nothing]
    patient.wake_and_wait()
    assert list(patient.file_store.media_types) == [second, first]
    assert patient.moments.pauses == [(1.0, False)]


def test_a_file_that_fails_while_others_are_taken_counts_and_ends_in_quarantine(
    patient: Draining, hours: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = patient.keep_file(b"poison")
    for _ in range(18):
        patient.files.failed(patient.the_file(), "earlier")
    put, tried = patient.file_store.put, []

    def fail(key: str, snapshot: Path, *, media_type: str) -> None:
        if key == poison:
            tried.append(patient.the_file().attempts)
            raise CANNOT
        put(key, snapshot, media_type=media_type)

    def another_one() -> None:
        hours.now += 10
        patient.drainer._file_breaker.succeeded()
        hours.now += 10

    monkeypatch.setattr(patient.file_store, "put", fail)
    patient.moments.happens = [another_one, another_one, another_one]
    patient.wake_and_wait()
    assert tried == [18, 18, 19]
    assert patient.set_apart() == [(poison, "No route. (20 times, while others were taken)")]


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_go_before_the_turns_that_name_them(draining: Draining) -> None:
    order = _order_of(draining)
    draining.keep("turn")
    draining.keep_file(b"file")
    draining.wake_and_wait()
    assert order == ["file", "turn"]


def test_turns_do_not_wait_for_files_whose_store_is_away(draining: Draining) -> None:
    draining.file_store.away = True
    draining.keep_file(b"file")
    draining.keep("turn")
    draining.moments.happens = [_do_nothing, lambda: setattr(draining.file_store, "away", False)]
    draining.wake_and_wait()
    assert prompts(draining.store.inner) == ["turn"]
    # One look since the turn went through; then the rest of the file store's own time.
    assert draining.moments.pauses == [(1.0, False), (BREAKER_PAUSE - 1.0, False)]
    assert draining.waiting_files() == []


def test_a_conversation_that_is_stuck_holds_up_no_other_and_is_tried_again(
    patient: Draining, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient.keep("stuck", "a")
    patient.keep("goes", "b")
    patient.drainer._most_threads = 1
    with monkeypatch.context() as while_it_fails:
        fail_for(patient, "stuck", while_it_fails)
        patient.moments.happens = [while_it_fails.undo]
        patient.wake_and_wait()
    assert prompts(patient.store.inner, "b") == ["goes"]
    assert prompts(patient.store.inner, "a") == ["stuck"]
    assert patient.moments.pauses == [(1.0, False)]


def _order_of(draining: Draining) -> list[str]:
    """What the stores are asked to keep, as it comes."""
    order: list[str] = []
    put, finish = draining.file_store.put, draining.store.finish

    def noted(what: str, work: Callable[..., object]) -> Callable[..., object]:
        def note(*args: object, **options: object) -> object:
            order.append(what)
            return work(*args, **options)

        return note

    draining.file_store.put = noted("file", put)  # type: ignore[method-assign,assignment]
    draining.store.finish = noted("turn", finish)  # type: ignore[method-assign,assignment]
    return order


def _do_nothing() -> None: ...
