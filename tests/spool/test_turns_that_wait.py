"""Turns wait durably, go to the store in their order, once, and what the store refuses holds up nothing else."""

import contextlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from spool.conftest import MakeSpool, NoPause, an_answered_turn, prompts

from perdure import Outcome
from perdure.errors import SpoolFull, StoreMisconfigured, StoreUnavailable, TurnRefused, TurnsWaiting
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.spool import delivery as deliveries
from perdure.middleware.persistence.spool.drainer import Drainer
from perdure.middleware.persistence.spool.spooled_turns import SpooledTurns
from perdure.middleware.persistence.sqlite_file.group_writer import GroupWriter
from perdure.middleware.persistence.turn import Window
from perdure.testing import FaultyStore
from perdure.testing.turns import a_turn, answered, ended

WIDE = Window(1000, 1_000_000)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def is_empty(spool: Spool) -> bool:
    return not any(line.turns or line.files for line in spool.status())


def test_what_waits_is_sent_in_order_once_the_store_is_back(spool: Spool, store: FaultyStore) -> None:
    store.fail()
    for number in range(50):
        spool.keep(an_answered_turn(f"{number}"))
    [line] = spool.status()
    assert (line.turns, line.conversations, line.quarantined_turns) == (50, 1, 0)
    store.heal()
    until(lambda: is_empty(spool), "not sent")
    assert prompts(store.inner) == [f"{number}" for number in range(50)]
    assert [turn.place for turn in store.inner.turns("alice", "c")] == list(range(1, 51))


def test_nothing_is_sent_twice_to_be_kept_twice_when_replies_are_lost(spool: Spool, store: FaultyStore) -> None:
    store.lose_reply("finish", times=5)
    for number in range(10):
        spool.keep(an_answered_turn(f"{number}"))
    until(lambda: is_empty(spool), "not sent")
    assert prompts(store.inner) == [f"{number}" for number in range(10)]


def test_a_turn_that_ended_waits_for_the_disk_and_its_intent_does_not(
    spool: Spool, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    written = GroupWriter.write

    def write(writer: GroupWriter, work: Callable[..., object], *, durable: bool) -> object:
        asked.append(durable)
        return written(writer, work, durable=durable)

    monkeypatch.setattr(Drainer, "wake", lambda _: None)
    monkeypatch.setattr(GroupWriter, "write", write)
    turn = a_turn("hello", continuation_id="c")
    spool.keep(turn)
    spool.keep(answered(turn, "HELLO"))
    assert asked == [False, True]


def test_another_process_finds_what_the_first_one_kept(make_spool: MakeSpool, store: FaultyStore) -> None:
    store.fail()
    first = make_spool()
    first.keep(an_answered_turn("before the crash"))
    first.close()
    store.heal()
    second = make_spool()
    second.wake()
    until(lambda: is_empty(second), "not sent")
    assert prompts(store.inner) == ["before the crash"]


def test_the_ending_of_a_turn_takes_the_place_of_its_intent(spool: Spool, store: FaultyStore) -> None:
    store.fail()
    first, second = a_turn("first", continuation_id="c"), an_answered_turn("second")
    spool.keep(first)
    spool.keep(second)
    spool.keep(answered(first, "FIRST"))
    store.heal()
    until(lambda: is_empty(spool), "not sent")
    kept = store.inner.turns("alice", "c")
    assert [(turn.prompt, turn.answer and turn.answer.text) for turn in kept] == [
        ("first", "FIRST"),
        ("second", "SECOND"),
    ]


def test_an_intent_is_sent_as_one_and_its_ending_finds_its_place(spool: Spool, store: FaultyStore) -> None:
    turn = a_turn("asked", continuation_id="c")
    spool.keep(turn)
    until(lambda: is_empty(spool), "not sent")
    assert [kept.outcome for kept in store.inner.turns("alice", "c")] == [Outcome.RUNNING]
    spool.keep(answered(turn, "ASKED"))
    until(lambda: is_empty(spool), "not sent")
    assert [kept.outcome for kept in store.inner.turns("alice", "c")] == [Outcome.ANSWERED]


def test_an_ending_that_comes_while_its_intent_is_being_sent_is_not_lost(spool: Spool, store: FaultyStore) -> None:
    turn = a_turn("asked", continuation_id="c")
    hang = store.hang("begin", times=1)
    spool.keep(turn)
    assert hang.entered.wait(10)
    spool.keep(answered(turn, "ASKED"))
    hang.release()
    until(lambda: is_empty(spool), "not sent")
    assert [kept.outcome for kept in store.inner.turns("alice", "c")] == [Outcome.ANSWERED]


def test_the_first_ending_wins(spool: Spool, store: FaultyStore) -> None:
    store.fail()
    turn = a_turn("asked", continuation_id="c")
    spool.keep(answered(turn, "first"))
    spool.keep(ended(turn, Outcome.CANCELLED))
    spool.keep(turn)
    store.heal()
    until(lambda: is_empty(spool), "not sent")
    [kept] = store.inner.turns("alice", "c")
    assert kept.outcome is Outcome.ANSWERED
    assert kept.answer is not None
    assert kept.answer.text == "first"


def test_a_turn_that_is_refused_is_set_apart_with_the_reason_and_holds_up_nothing(
    spool: Spool, store: FaultyStore
) -> None:
    store.fail("finish", error=TurnRefused("It holds a unicorn.", remedy="none."), times=1)
    spool.keep(an_answered_turn("poison"))
    until(lambda: is_empty(spool), "it blocks")
    spool.keep(an_answered_turn("after it"))
    until(lambda: is_empty(spool), "it blocks")
    assert prompts(store.inner) == ["after it"]
    [found] = spool.quarantine()
    assert found.reason == "It holds a unicorn."
    assert (found.kind, found.principal, found.continuation_id) == ("turn", "alice", "c")
    assert '"poison"' in (found.record or "")


def test_a_turn_in_quarantine_can_be_tried_again_or_thrown_away(spool: Spool, store: FaultyStore) -> None:
    store.fail("finish", error=TurnRefused("no"), times=2)
    for prompt in ("one", "two"):
        spool.keep(an_answered_turn(prompt))
    until(lambda: len(spool.quarantine()) == 2, "not refused")
    one, two = sorted(spool.quarantine(), key=lambda of: str(json.loads(of.record or "")["prompt"]))
    assert spool.retry(one.id) == 1
    assert spool.discard("no such") == 0
    assert spool.discard(two.id) == 1
    spool.wake()
    until(lambda: is_empty(spool), "not sent")
    assert prompts(store.inner) == ["one"]
    assert spool.quarantine() == []


def test_one_that_fails_again_and_again_while_others_are_taken_ends_in_quarantine(
    spool: Spool, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_ATTEMPTS", 3)
    monkeypatch.setattr(deliveries, "_LONGEST_SKIP", 0.01)
    kept = store.inner.finish

    def finish(turn: object) -> object:
        if getattr(turn, "prompt", "") == "poison":
            raise StoreUnavailable("It takes too long.", remedy="wait.")
        return kept(turn)  # type: ignore[arg-type]

    monkeypatch.setattr(store.inner, "finish", finish)
    spool.keep(an_answered_turn("poison"))
    number = 0
    deadline = time.monotonic() + 60
    while not spool.quarantine():
        spool.keep(an_answered_turn(f"{number}", continuation_id=f"other {number}"))
        number += 1
        assert time.monotonic() < deadline, f"{number} others were taken, and it still waits"
        time.sleep(0.01)
    assert "3 times, while others were taken" in spool.quarantine()[0].reason
    until(lambda: is_empty(spool), "others were held up")


def test_while_the_store_is_away_no_attempt_counts(
    spool: Spool, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_ATTEMPTS", 3)
    store.fail()
    spool.keep(an_answered_turn("patient"))
    until(lambda: store.calls("finish") > 10, "not tried")
    assert spool.quarantine() == []
    store.heal()
    until(lambda: is_empty(spool), "not sent")


@pytest.mark.parametrize(
    "error", [StoreUnavailable("No route."), StoreMisconfigured("No tables."), RuntimeError("nobody expects this")]
)
def test_why_something_cannot_be_sent_is_logged_once(
    make_spool: MakeSpool,
    store: FaultyStore,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(deliveries, "_HOLD", 0.01)
    spool = make_spool()
    store.fail(error=error)
    spool.keep(an_answered_turn("waits"))
    until(lambda: store.calls("finish") > 5, "not tried")
    said = [record.getMessage() for record in caplog.records if "spool.not_sent" in record.getMessage()]
    assert len(said) == 1
    assert str(error) in said[0]
    assert "perdure spool status" in said[0]


def test_a_spool_that_cannot_be_written_any_more_is_logged_and_what_waits_in_it_is_sent_all_the_same(
    spool: Spool, store: FaultyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "the disk is gone")

    monkeypatch.setattr(SpooledTurns, "drop", fail)
    spool.keep(an_answered_turn("waits"))
    until(lambda: "the disk is gone" in caplog.text, "not said")
    assert prompts(store.inner) == ["waits"]


def test_what_waits_for_another_destination_is_left_alone(make_spool: MakeSpool, store: FaultyStore) -> None:
    elsewhere = make_spool(destination="elsewhere")
    store.fail()
    elsewhere.keep(an_answered_turn("for elsewhere"))
    elsewhere.close()
    store.heal()
    here = make_spool()
    here.keep(an_answered_turn("for here"))
    until(lambda: [line.turns for line in here.status() if line.destination == "here"] in ([], [0]), "not sent")
    assert prompts(store.inner) == ["for here"]
    assert [(line.destination, line.turns) for line in here.status()] == [("elsewhere", 1)]


def test_a_store_that_somebody_must_set_up_is_asked_again_and_takes_all(
    make_spool: MakeSpool, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "_HOLD", 0.01)
    spool = make_spool()
    store.fail(error=StoreMisconfigured("No tables.", remedy="run perdure migrate."))
    for number in range(30):
        spool.keep(an_answered_turn(f"{number}", continuation_id=f"{number % 3}"))
    until(lambda: store.calls("finish") > 3, "not asked again")
    store.heal()
    until(lambda: is_empty(spool), "not sent")
    assert [prompts(store.inner, f"{name}") for name in range(3)] == [
        [f"{number}" for number in range(name, 30, 3)] for name in range(3)
    ]


# ── before a call ────────────────────────────────────────────────────────────────────────────────────────────


def test_settling_sends_what_waits_of_that_conversation_first(make_spool: MakeSpool, store: FaultyStore) -> None:
    spool = make_spool()
    store.fail()
    spool.keep(an_answered_turn("waits"))
    with pytest.raises(StoreUnavailable):
        spool.settle("alice", "c")
    store.heal()
    until(lambda: not _raises(lambda: spool.settle("alice", "c")), "not sent")
    assert prompts(store.inner) == ["waits"]


def _raises(work: Callable[[], None]) -> bool:
    try:
        work()
    except StoreUnavailable:
        return True
    return False


def test_settling_where_nothing_waits_asks_no_store(spool: Spool, store: FaultyStore) -> None:
    spool.settle("alice", "c")
    assert not (spool.folder / "spool.db").exists()
    assert store.calls("finish") == 0


def test_a_long_queue_is_not_sent_in_a_call(make_spool: MakeSpool, store: FaultyStore) -> None:
    spool = make_spool()
    store.fail()
    for number in range(12):
        spool.keep(an_answered_turn(f"{number}"))
    with pytest.raises(TurnsWaiting, match="More than 8"):
        spool.settle("alice", "c")


def test_the_history_of_what_waits_is_complete_only_where_the_conversation_began_here(
    make_spool: MakeSpool, store: FaultyStore
) -> None:
    spool = make_spool()
    store.fail()
    asks = a_turn("now", continuation_id="new")
    first = replace(an_answered_turn("first", "new"), minted=True)
    for turn in (
        first,
        an_answered_turn("second", "new"),
        ended(a_turn("failed", continuation_id="new"), Outcome.FAILED),
    ):
        spool.keep(turn)
    spool.keep(asks)
    waiting = spool.history(asks, WIDE)
    assert ([turn.prompt for turn in waiting.turns], waiting.complete, waiting.omitted) == (
        ["first", "second"],
        True,
        1,
    )
    narrow = spool.history(asks, Window(1, 1_000_000))
    assert [turn.prompt for turn in narrow.turns] == ["second"]
    assert spool.history(asks, Window(20, 15)).turns == narrow.turns

    spool.keep(an_answered_turn("goes on", "old"))
    of_old = spool.history(a_turn("now", continuation_id="old"), WIDE)
    assert ([turn.prompt for turn in of_old.turns], of_old.complete) == (["goes on"], False)
    assert not spool.history(a_turn("now", continuation_id="new", principal="bob"), WIDE).turns


# ── bounds and damage ────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_spool_refuses_in_words_and_keeps_what_it_has(make_spool: MakeSpool, store: FaultyStore) -> None:
    store.fail()
    spool = make_spool(max_bytes=300_000)
    taken = 0
    with contextlib.suppress(SpoolFull):
        while taken < 1000:
            spool.keep(an_answered_turn(f"{taken}" + "x" * 5000))
            taken += 1
    assert 5 < taken < 60
    with pytest.raises(SpoolFull, match="may hold 300,000"):
        spool.keep(an_answered_turn("x" * 5000))
    store.heal()
    until(lambda: is_empty(spool), "not sent")
    assert len(prompts(store.inner)) == taken
    spool.keep(an_answered_turn("there is room again"))


def test_nobody_else_can_read_it(spool: Spool, store: FaultyStore) -> None:
    store.fail()
    spool.keep(an_answered_turn("secret"))
    for path in spool.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["no database", "a broken page"])
def test_a_damaged_spool_is_set_aside_and_kept_and_a_new_one_takes_turns(
    make_spool: MakeSpool, store: FaultyStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.fail()
    before = make_spool()
    for number in range(100):
        before.keep(an_answered_turn(f"{number}" + "x" * 2000))
    before.close()
    path = before.folder / "spool.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = path.read_bytes()
    path.write_bytes(b"garbage" * 1000 if damage == "no database" else content[:8192] + b"\xff" * (len(content) - 8192))
    broken = path.read_bytes()

    spool = make_spool()
    spool.keep(an_answered_turn("after the damage"))
    [aside] = spool.set_aside()
    assert aside.read_bytes() == broken
    assert "is damaged" in caplog.text
    assert str(aside) in caplog.text
    store.heal()
    until(lambda: is_empty(spool), "not sent")
    assert prompts(store.inner) == ["after the damage"]


def test_threads_that_find_the_damage_at_once_set_aside_one_file(make_spool: MakeSpool, store: FaultyStore) -> None:
    store.fail()
    spool = make_spool()
    spool.folder.mkdir(parents=True)
    (spool.folder / "spool.db").write_bytes(b"garbage" * 1000)
    threads = [
        threading.Thread(target=lambda number=number: spool.keep(an_answered_turn(f"{number}"))) for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spool.set_aside()) == 1
    assert sum(line.turns for line in spool.status()) == 16


def test_many_conversations_are_sent_whichever_of_them_is_stuck(
    make_spool: MakeSpool, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.inner.finish

    def finish(turn: object) -> object:
        if getattr(turn, "continuation_id", "") == "0":
            raise StoreUnavailable("Not this one.", remedy="wait.")
        return kept(turn)  # type: ignore[arg-type]

    monkeypatch.setattr(store.inner, "finish", finish)
    spool = make_spool(breaker=NoPause())
    for number in range(60):
        spool.keep(an_answered_turn(f"{number}", continuation_id=f"{number % 20}"))
    until(lambda: [line.turns for line in spool.status()] == [3], "the others were held up")
    assert prompts(store.inner, "7") == ["7", "27", "47"]


def test_a_spool_that_cannot_be_written_says_so(make_spool: MakeSpool, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    with pytest.raises(StoreUnavailable, match="data directory"):
        make_spool().keep(an_answered_turn("x"))


def test_a_call_waits_a_little_for_whoever_is_sending_its_turns_already(
    make_spool: MakeSpool, store: FaultyStore
) -> None:
    store.fail()
    first, second = make_spool(), make_spool()
    first.keep(an_answered_turn("waits"))
    store.heal()
    hang = store.hang("finish", times=1)
    assert hang.entered.wait(10)
    threading.Timer(0.1, hang.release).start()
    second.settle("alice", "c")
    assert prompts(store.inner) == ["waits"]


def test_the_lease_of_a_process_that_was_killed_holds_nothing_up(make_spool: MakeSpool, store: FaultyStore) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owners = (f"{ended.pid}-gone-1", f"{os.getpid()}-before-1")  # the second had our number before us
    for owner in owners:
        store.fail()
        spool = make_spool()
        spool._drainer.stop()
        spool.keep(an_answered_turn(owner))
        lease = ("here\0turns\0alice\0c", owner, time.time() + 14)
        with contextlib.closing(sqlite3.connect(spool.folder / "spool.db")) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO spool_leases VALUES (?, ?, ?)", lease)
        store.heal()
        spool.settle("alice", "c")
    assert prompts(store.inner) == list(owners)
