"""`docs/sdks.md` has the table of what holds with which SDK."""

from pathlib import Path

from seams.matrix import BEGIN, END, PAGE, Case, rendered, sentence, themes, written_into
from seams.suite.representative import REPRESENTATIVE
from seams.worlds.here import WORLDS

AGAIN = "run `make matrix` and commit docs/sdks.md"


def _block() -> str:
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def test_the_table_has_every_behaviour_of_the_suite_and_no_other() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in _block().splitlines() if line.startswith("| ")]
    listed = [row.rpartition(" (")[0] if row.endswith(" cases)") else row for row in rows]
    for theme in themes():
        for behaviour in theme.behaviours:
            assert sentence(behaviour) in listed, AGAIN
    promised = sum(len(theme.behaviours) + 1 for theme in themes())
    in_the_table = _block().partition("| behaviour |")[2].count("\n| ") - 1
    assert in_the_table == promised, AGAIN


def test_the_table_has_the_worlds_of_this_environment() -> None:
    [head] = [line for line in _block().splitlines() if line.startswith("| behaviour |")]
    for world in WORLDS:
        name, _, number = world.kind.sdk.partition(" ")
        assert f" {name} {number.split('.')[0]}.x {world} |" in head, AGAIN


def test_every_representative_behaviour_is_one_of_the_suite() -> None:
    assert {behaviour for theme in themes() for behaviour in theme.behaviours} >= REPRESENTATIVE


def test_nothing_in_the_table_has_failed() -> None:
    assert "✗" not in _block()


def test_the_suite_has_at_least_sixty_behaviours() -> None:
    assert sum(len(theme.behaviours) for theme in themes()) >= 60


def _case(behaviour: str, *, passed: bool = True, limit: str = "", sdk: str = "mcp 1.30.0") -> Case:
    limits = frozenset({(limit, "the reason")} if limit else ())
    return Case("test_shapes", behaviour, sdk, "3.11.7", "FastMCP hook", passed, limits)


def test_a_cell_shows_a_failure_in_any_environment_and_the_limit_that_was_met() -> None:
    first, second = (theme := next(theme for theme in themes() if theme.name == "test_shapes")).behaviours[:2]
    block = rendered(
        [_case(first, limit="no such thing"), _case(second), _case(second, passed=False, sdk="mcp 1.28.0")]
    )
    assert f"| {sentence(first)} | ✓ <sup>1</sup> |" in block
    assert f"| {sentence(second)} | ✗ |" in block
    assert "1. no such thing: the reason." in block
    assert "| mcp 1.28.0 | 3.11.7 | 1 | 1 | 1 |" in block
    assert f"**{theme.sentence}**" in block


def test_the_table_is_written_between_its_marks() -> None:
    page = f"before\n{BEGIN}old\n{END}after\n"
    assert written_into(page, "new") == f"before\n{BEGIN}\nnew\n{END}after\n"
    assert Path(PAGE).is_file()
