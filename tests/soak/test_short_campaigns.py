"""The campaigns of this folder in short. `make soak-2` and its like run them in full."""

from pathlib import Path

from soak.power_losses import SqliteTurns, lose_power
from soak.progress import Progress


def test_no_acknowledged_turn_is_lost_with_the_power() -> None:
    figures, violations = lose_power(40, SqliteTurns(), seed="short")
    assert violations == []
    assert figures["losses"] == 40
    assert figures["dropped"] > 40
    assert figures["acknowledged"] > 200


def test_without_the_syncs_that_the_store_asks_for_turns_are_lost() -> None:
    """The control: the disk does forget, and the campaign notices."""
    found = [lose_power(10, SqliteTurns(), seed=f"short {number}", synchronous="NORMAL") for number in range(5)]
    assert any("is not there" in said for _, violations in found for said in violations)


def test_an_interrupted_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    Progress("c", {"losses": 10}, tmp_path).add({"losses": 3, "seconds": 0.5}, ["one"])
    Progress("c", {"losses": 10}, tmp_path).add({"losses": 4, "seconds": 0.25}, ["two"])
    again = Progress("c", {"losses": 10}, tmp_path)
    assert again.counts == {"losses": 7, "seconds": 0.75}
    assert again.violations == ["one", "two"]
    assert Progress("c", {"losses": 20}, tmp_path).counts == {}
    again.end()
    assert Progress("c", {"losses": 10}, tmp_path).counts == {}
