"""Links of the pages that are no part of the site lead somewhere; `make docs` looks at those of the site."""

import re
from pathlib import Path

import pytest
from documentation.blocks import REPOSITORY
from markdown_it import MarkdownIt

OUTSIDE = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "examples" / "README.md"]


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    for link in _links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_readme_fits_on_one_screen_and_names_the_command_for_all_tests() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 52
    assert "$ make test " in text


def _links(page: Path) -> list[str]:
    tokens = MarkdownIt().enable("table").parse(page.read_text())
    children = [child for token in tokens for child in token.children or []]
    found = [str(child.attrs.get("href") or child.attrs.get("src") or "") for child in children]
    return [link for link in found if link and "://" not in link]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
