"""docs/threats.md says of each threat what has to happen, and names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threats.md").read_text()

NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", TEXT)))


@cache
def functions_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def rows(part: str) -> list[list[str]]:
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def parts() -> dict[str, str]:
    return dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("named", NAMED)
def test_every_test_that_is_named_exists(named: str) -> None:
    path, _, function = named.partition("::")
    assert (ROOT / path).is_file()
    assert not function or function in functions_in(ROOT / path)
    assert function or any(name.startswith("test_") for name in functions_in(ROOT / path))


def test_every_threat_has_what_must_happen_and_a_test_or_is_said_not_to_be_covered() -> None:
    found = parts()
    for heading, part in found.items():
        assert rows(part), heading
        for row in rows(part):
            assert all(row), row
            if heading == "Not covered":
                assert len(row) == 2, row
            else:
                assert len(row) == 3, row
                assert re.fullmatch(r"`tests/[^`]+`( `tests/[^`]+`)*", row[2]), row
    assert "Not covered" in found


def test_it_can_be_found() -> None:
    for page in ("README.md", "docs/guarantees.md"):
        assert "threats.md" in (ROOT / page).read_text()
