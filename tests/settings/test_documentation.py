"""docs/configuration.md lists exactly the settings there are, each with the value that it has if nobody sets it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import to_jsonable_python

from perdure.settings import NEEDS_RESTART, Policy, Settings, ToolSettings
from perdure.settings_loader import load_settings

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"


def rows(*headings: str) -> dict[str, list[str]]:
    """The rows of the tables under these headings, by the setting that each is about."""
    text = DOCUMENTATION.read_text()
    found: dict[str, list[str]] = {}
    for heading in headings:
        part = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        for row in re.findall(r"^\| (.+) \|$", part, re.MULTILINE):
            name, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", row))
            if match := re.fullmatch(r"`(\w+)`", name):
                assert match[1] not in found, f"{match[1]} stands there twice"
                found[match[1]] = cells
    return found


def of_the_process() -> dict[str, list[str]]:
    return rows("For the whole process")


def of_a_tool() -> dict[str, list[str]]:
    return rows("For one tool", "Files")


def comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | frozenset) else to_jsonable_python(value)


def test_every_setting_of_the_process_is_listed_and_no_other() -> None:
    assert set(of_the_process()) == set(Settings.model_fields) - {"defaults", "tools"}


def test_every_setting_of_a_tool_is_listed_and_no_other() -> None:
    assert set(of_a_tool()) == set(ToolSettings.model_fields)


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - {"defaults", "tools"}))
def test_the_built_in_value_of_a_setting_of_the_process_is_what_is_listed(name: str) -> None:
    assert _listed(of_the_process()[name][0]) == comparable(Settings.model_fields[name].default)


@pytest.mark.parametrize("name", sorted(set(ToolSettings.model_fields) - {"enabled"}))
def test_the_built_in_value_of_a_setting_of_a_tool_is_what_is_listed(name: str) -> None:
    assert _listed(of_a_tool()[name][0]) == comparable(getattr(Policy(), name))


def test_what_is_said_to_need_a_restart_does_and_nothing_else() -> None:
    said = {name: cells[1] for name, cells in of_the_process().items()}
    assert set(said.values()) == {"at once", "at a restart"}
    assert {name for name, when in said.items() if when == "at a restart"} == NEEDS_RESTART


def test_the_example_file_is_one_that_can_be_used(tmp_path: Path) -> None:
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        assert load_settings(file).tools


def _listed(cell: str) -> Any:
    match = re.fullmatch(r"`(.+)`", cell)
    return comparable(tomllib.loads(f"value = {match[1]}")["value"]) if match else None
