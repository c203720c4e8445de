"""docs/reference is what the code says today, and says it of everything."""

import ast
import re
from pathlib import Path

import pytest

from perdure.middleware import meta_keys
from perdure.settings import Settings
from perdure.tool_settings import ToolSettings
from tools.reference.pages import FOLDER, PAGES, sql_page
from tools.reference.source import docs_of

SOURCES = Path(meta_keys.__file__).parents[1]

STALE = "{} is not what the code says any more: run `make reference`, and commit it"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text() == PAGES[name](), STALE.format(f"docs/reference/{name}.md")


def test_the_page_about_sql_is_what_the_migrations_make(database_url: str) -> None:
    assert (FOLDER / "sql.md").read_text() == sql_page(database_url), STALE.format("docs/reference/sql.md")


@pytest.mark.parametrize("model", [Settings, ToolSettings])
def test_every_setting_says_what_it_is(model: type[Settings] | type[ToolSettings]) -> None:
    assert [name for name in model.model_fields if not docs_of(model).get(name)] == []


def test_every_key_in_meta_that_the_code_uses_is_described() -> None:
    """`perdure/whole` is a mark in a database's row, and reaches nobody."""
    used = {
        node.value
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"perdure/[a-z-]+", node.value)
    }
    described = {getattr(meta_keys, name): text for name, text in docs_of(meta_keys).items() if name != "__all__"}
    assert used - {"perdure/whole"} == set(described)
    assert all(described.values())
