"""The soaks of this folder in short. `make soak-1` and its like run them in full."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from soak import every_boundary, hung_store
from soak.acknowledged import Ledger, Told, violations
from soak.boundaries import SAID
from soak.evidence import answer_to
from soak.outage import Away, Outage, survive
from soak.replicas import Plan, Protocol, serve_and_kill
from soak.spool_kills import Pace, kill_again_and_again

from perdure.middleware.persistence.stores.memory import MemoryStore
from perdure.middleware.persistence.turn import Turn
from perdure.testing.turns import a_turn, answered


def test_processes_that_share_a_spool_are_killed_and_lose_nothing_while_postgres_is_killed_too() -> None:
    pace = Pace(server_up=(1.0, 2.0), server_down=(0.0, 1.0), bytes_between_kills=(1000.0, 5000.0))
    figures, found = kill_again_and_again(4, pace=pace, seed="short")
    assert found == []
    assert figures["kills"] == 4
    assert figures["servers"] > 0
    assert figures["acknowledged"] > 40
    assert figures["deferred"] > 0


@pytest.mark.parametrize("away", ["refused", "hung"])
def test_what_waits_through_an_outage_under_load_is_all_sent_in_order(away: Away) -> None:
    figures, found = survive(Outage(away=away, seconds=5.0, up=1.0))
    assert found == []
    assert figures["waited"] > 50
    assert figures["acknowledged"] == figures["calls"]


def test_a_store_that_hangs_holds_up_calls_only_until_that_is_known() -> None:
    took, wrong = hung_store.measure(2)
    assert wrong == []
    assert len(took.left_alone) == 2 * hung_store.CALLS
    assert hung_store.percentile(took.left_alone, 50) < min(took.hung)


@pytest.mark.parametrize("protocol", ["stateless", "sessions"])
def test_what_replicas_acknowledged_is_there_once_though_they_are_killed(protocol: Protocol) -> None:
    figures, found = serve_and_kill(Plan(protocol=protocol, kills=2, clients=6), seed="short")
    assert found == []
    assert figures["acknowledged"] > 20


# ── every boundary ───────────────────────────────────────────────────────────────────────────────────────────


def test_no_boundary_is_unlisted_and_a_fault_at_some_of_them_changes_no_answer() -> None:
    # A process of its own, since it forks.
    command = [sys.executable, every_boundary.__file__, "--sample", "6", "--kind", "error"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_boundary_that_is_not_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    (tmp_path / "boundaries.txt").write_text("engine -> a.store\nsilent: threads -> a.clock  # why\n")
    monkeypatch.setattr(every_boundary, "LIST", tmp_path / "boundaries.txt")
    assert every_boundary.known() == {"engine -> a.store": False, "threads -> a.clock": True}
    assert every_boundary.unlisted({"engine -> a.store": 3, "engine -> another": 1}) == ["engine -> another"]


def test_calls_out_of_perdure_are_seen_and_fail_when_told_to(tmp_path: Path) -> None:
    """The control: without this nothing would be injected, and all would be well."""
    # In a process of its own: whoever measures how much of the code is tested looks at the same hooks.
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from perdure.middleware.persistence.stores.sqlite import SqliteStore
from soak.boundaries import Boundaries
boundaries = Boundaries("sqlite_file.database -> _sqlite3.connect")
boundaries.watch()
for _ in range(2):
    try:
        SqliteStore(Path({str(tmp_path)!r}) / "perdure.db").turns("alice", "c")
        SqliteStore(Path({str(tmp_path)!r}) / "perdure.db").finish(None)
    except Exception as error:
        print(error)
print(boundaries.fired, len(boundaries.counts))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = ended.stdout.splitlines()
    assert [SAID in line for line in said] == [True, True, False], ended.stdout + ended.stderr
    fired, reached = map(int, said[-1].split())
    assert fired == 2
    assert reached > 5


# ── the witness ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda kept: kept[:2], "acknowledged and is not there"),
        (lambda kept: [kept[0], kept[2]], "place 3 where 2 should be"),
        (lambda kept: [kept[0], a_turn("two", continuation_id="c", place=2), kept[2]], "acknowledged and is running"),
        (lambda kept: [kept[0], replace(kept[1], answer=kept[2].answer), kept[2]], "has the answer 'answer to three'"),
        (lambda kept: [*kept, replace(kept[0], place=4)], "'one' is there twice, in 1 and 4"),
        (lambda kept: [replace(kept[1], place=1), replace(kept[0], place=2), kept[2]], "its writer's 'one' in 2"),
    ],
)
def test_the_witness_notices(damage: Callable[[list[Turn]], list[Turn]], complaint: str, tmp_path: Path) -> None:
    kept = [
        replace(answered(a_turn(prompt, continuation_id="c"), answer_to(prompt)), place=place)
        for place, prompt in enumerate(("one", "two", "three"), start=1)
    ]

    class Kept(MemoryStore):
        def turns(self, principal: str, continuation_id: str, *, after: int = 0, limit: int = 100) -> list[Turn]:
            return kept if after == 0 else []

    ledger = Ledger(tmp_path / "acknowledged")
    for number, turn in enumerate(kept):
        ledger.write(Told("writer", number, "c", turn.prompt, persisted=True, deferred=False, fault=""))
    assert list(violations(Kept(), "alice", ledger.read())) == []
    kept = damage(kept)
    assert any(complaint in line for line in violations(Kept(), "alice", ledger.read()))
    ledger.close()
