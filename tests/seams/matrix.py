"""The table of behaviours and worlds in `docs/sdks.md`, made of the suite's reports: `python -m seams.matrix REPORT…`.

A report is what `pytest --junitxml` writes of `tests/seams/suite` in the environment of one SDK.
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

__all__ = ["BEGIN", "END", "Case", "Theme", "cases_of", "rendered", "sentence", "themes", "written_into"]

SUITE = Path(__file__).with_name("suite")
PAGE = Path(__file__).parents[2] / "docs" / "sdks.md"
BEGIN = "<!-- made by `make matrix`; what stands up to the end mark is overwritten -->\n"
END = "<!-- end -->\n"


@dataclass(frozen=True)
class Case:
    """One behaviour in one world, with one set of its parameters."""

    theme: str
    behaviour: str
    sdk: str
    python: str
    world: str
    passed: bool
    limits: frozenset[tuple[str, str]]
    """What this world cannot give and why, as far as the behaviour met it."""

    @property
    def column(self) -> tuple[str, str]:
        name, _, number = self.sdk.partition(" ")
        return f"{name} {number.split('.')[0]}.x", self.world


@dataclass(frozen=True)
class Theme:
    name: str
    sentence: str
    behaviours: tuple[str, ...]


def themes() -> list[Theme]:
    """What the suite promises, in the order of its files."""
    found = []
    for path in sorted(SUITE.glob("test_*.py")):
        module = ast.parse(path.read_text())
        functions = [node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        sentence = (ast.get_docstring(module) or "").partition("\n")[0].partition(". ")[0].rstrip(".")
        tests = tuple(name for name in functions if name.startswith("test_"))
        found.append(Theme(path.stem, sentence, tests))
    return found


def cases_of(report: Path) -> Iterator[Case]:
    for test in ElementTree.parse(report).iter("testcase"):
        properties = [(each.get("name", ""), each.get("value", "")) for each in test.iter("property")]
        known = dict(properties)
        limits = frozenset((what, why) for name, value in properties if name == "limit" for what, why in [_pair(value)])
        yield Case(
            theme=test.get("classname", "").rpartition(".")[2],
            behaviour=test.get("name", "").partition("[")[0],
            sdk=known["sdk"],
            python=known["python"],
            world=known["world"],
            passed=test.find("failure") is None and test.find("error") is None and test.find("skipped") is None,
            limits=limits,
        )


def _pair(value: str) -> tuple[str, str]:
    what, _, why = value.partition(" | ")
    return what, why


def rendered(cases: Iterable[Case]) -> str:
    by_cell: dict[tuple[str, str, tuple[str, str]], list[Case]] = defaultdict(list)
    by_environment: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        by_cell[case.theme, case.behaviour, case.column].append(case)
        by_environment[case.sdk, case.python].append(case)
    sdks = list(dict.fromkeys(sdk for _, _, (sdk, _) in by_cell))  # in the order of the reports
    columns = sorted({column for _, _, column in by_cell}, key=lambda column: (sdks.index(column[0]), column[1]))
    numbers = _Numbers()
    lines = [
        "| behaviour | " + " | ".join(f"{sdk} {world}" for sdk, world in columns) + " |",
        "| --- |" + " :-: |" * len(columns),
    ]
    for theme in themes():
        lines.append(f"| **{theme.sentence}** |" + " |" * len(columns))
        for behaviour in theme.behaviours:
            cells = [by_cell.get((theme.name, behaviour, column), []) for column in columns]
            times = max((_times(cell) for cell in cells), default=0)
            name = sentence(behaviour) + (f" ({times} cases)" if times > 1 else "")
            lines.append(f"| {name} | " + " | ".join(_cell(cell, numbers) for cell in cells) + " |")
    about = [
        "| environment | Python | behaviours x worlds | cases | failed |",
        "| --- | --- | --- | --- | --- |",
        *(_environment(*environment, tests) for environment, tests in by_environment.items()),
    ]
    return "\n".join([*about, "", *lines, "", *numbers.explained(), ""])


def _times(cell: list[Case]) -> int:
    """With how many sets of parameters: in each environment the same."""
    return max(Counter(case.sdk for case in cell).values(), default=0)


class _Numbers:
    """Gives each limit with its reason a number, in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def of(self, limit: tuple[str, str]) -> int:
        return self._numbers.setdefault(limit, len(self._numbers) + 1)

    def explained(self) -> list[str]:
        return [f"{number}. {what}: {why}." for (what, why), number in self._numbers.items()]


def _cell(cases: list[Case], numbers: _Numbers) -> str:
    if not cases:
        return "–"
    if not all(case.passed for case in cases):
        return "✗"
    limits = sorted({numbers.of(limit) for case in cases for limit in sorted(case.limits)})
    return "✓" + (f" <sup>{', '.join(map(str, limits))}</sup>" if limits else "")


def _environment(sdk: str, python: str, cases: list[Case]) -> str:
    cells = {(case.theme, case.behaviour, case.world) for case in cases}
    failed = sum(not case.passed for case in cases)
    return f"| {sdk} | {python} | {len(cells)} | {len(cases)} | {failed} |"


def sentence(behaviour: str) -> str:
    return behaviour.removeprefix("test_").replace("_", " ")


def written_into(page: str, block: str) -> str:
    """
    Raises:
        ValueError: The marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("docs/sdks.md has lost the marks between which the table stands; see tests/seams/matrix.py")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> None:
    cases = [case for report in sys.argv[1:] for case in cases_of(Path(report))]
    block = rendered(cases)
    PAGE.write_text(written_into(PAGE.read_text(), block))
    sys.stdout.write(block)
    failed = sum(not case.passed for case in cases)
    sys.exit(f"{failed} of {len(cases)} cases failed." if failed else 0)


if __name__ == "__main__":
    main()
