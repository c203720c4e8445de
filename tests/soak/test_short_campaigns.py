"""The campaigns of this folder in short. `make soak-2` and its like run them in full."""

import re
from pathlib import Path

import pytest
from fuzz.swapped_names import ALL_SWAPS, Swap
from properties.two_stores import SqliteAndMemory
from soak import link_swaps, mutants, path_inputs
from soak.power_losses import lose_power
from soak.power_subjects import SUBJECTS
from soak.progress import Progress
from soak.store_model import run_slice

from perdure.middleware.persistence.ports import Store


@pytest.mark.parametrize("subject", SUBJECTS)
def test_no_acknowledged_turn_is_lost_with_the_power(subject: str) -> None:
    figures, violations = lose_power(40, SUBJECTS[subject](), seed="short")
    assert violations == []
    assert figures["losses"] == 40
    assert figures["dropped"] > 40
    assert figures["acknowledged"] > 200


@pytest.mark.parametrize(("subject", "said"), [("store", "is not there"), ("spool", "does not wait")])
def test_without_the_syncs_that_it_asks_for_turns_are_lost(subject: str, said: str) -> None:
    """The control: the disk does forget, and the campaign notices."""
    found = [
        lose_power(10, SUBJECTS[subject](), seed=f"short {number}", synchronous="NORMAL")[1] for number in range(5)
    ]
    assert any(said in violation for violations in found for violation in violations)


def test_a_slice_of_the_model_test_counts_what_it_did_and_finds_nothing() -> None:
    figures, violations = run_slice(SqliteAndMemory, number=1, examples=5, steps=10)
    assert violations == []
    assert figures["examples"] >= 5
    assert figures["steps"] >= 5 * 10


class Forgetful(SqliteAndMemory):
    def make_store(self) -> Store:
        store = super().make_store()
        store.finish = self.model.finish  # type: ignore[method-assign]
        return store


def test_a_slice_of_the_model_test_tells_the_way_to_a_difference() -> None:
    """The control."""
    _, violations = run_slice(Forgetful, number=1, examples=50, steps=10, shrink=False)
    assert len(violations) == 1
    assert "state.finish" in violations[0] or "state.begin" in violations[0]


def test_inputs_led_by_what_they_reach_find_nothing(tmp_path: Path) -> None:
    figures, violations = path_inputs.run_slice(3000, seed=1, corpus=tmp_path / "corpus")
    assert violations == []
    assert figures["inputs"] == 3000
    assert figures["opened"] > 300
    assert len(list((tmp_path / "corpus").iterdir())) > 20  # what reached something new


def test_bytes_that_ask_for_ever_more_make_an_input_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for byte in (0x29, 0x00, 0xFF, 0x55):
        (tmp_path / "corpus" / f"{byte}").write_bytes(bytes([byte]) * 400)
    figures, violations = path_inputs.run_slice(50, seed=1, corpus=tmp_path / "corpus")
    assert violations == []
    assert figures["inputs"] == 50


def test_a_slice_that_ends_badly_is_a_violation(tmp_path: Path) -> None:
    (tmp_path / "corpus").touch()  # where a folder must be
    _, violations = path_inputs.run_slice(10, seed=1, corpus=tmp_path / "corpus")
    assert len(violations) == 1


@pytest.mark.parametrize("swap", ALL_SWAPS)
def test_swaps_lead_nothing_outside(swap: Swap) -> None:
    looked, violations = link_swaps.run_slice(swap, 500)
    assert violations == []
    assert looked.swaps >= 500


NOTICES = (
    "from perdure.middleware.answers import answer\n\ndef test_the_answer() -> None:\n    assert answer(2) == 42\n"
)


@pytest.mark.parametrize(("test", "good"), [(NOTICES, True), (NOTICES.replace("== 42", "!= 0"), False)])
def test_a_module_of_which_too_little_is_noticed_is_said_to_be_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], test: str, good: bool
) -> None:
    root = tmp_path / "root"
    for path, content in {
        "src/perdure/__init__.py": "",
        "src/perdure/middleware/__init__.py": "",
        "src/perdure/middleware/answers.py": "def answer(number: int) -> int:\n    return 20 * number + 2\n",
        "tests/test_answers.py": test,
        "sql/none": "",
        "pyproject.toml": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    module = mutants.Module("answers.py", ["tests/test_answers.py"])
    mutants.judge(module, tmp_path / "judged", root=root, seconds=120, children=1)
    assert mutants.tell("answers", mutants.verdicts(module, tmp_path / "judged"), 1.0) is good
    assert re.search(r"answers: \d+/4 mutants noticed", capfd.readouterr().out)


def test_an_interrupted_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    Progress("c", {"losses": 10}, tmp_path).add({"losses": 3, "seconds": 0.5}, ["one"])
    Progress("c", {"losses": 10}, tmp_path).add({"losses": 4, "seconds": 0.25}, ["two"])
    again = Progress("c", {"losses": 10}, tmp_path)
    assert again.counts == {"losses": 7, "seconds": 0.75}
    assert again.violations == ["one", "two"]
    assert Progress("c", {"losses": 20}, tmp_path).counts == {}
    again.end()
    assert Progress("c", {"losses": 10}, tmp_path).counts == {}
