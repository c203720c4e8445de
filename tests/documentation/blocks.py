"""The fenced blocks of a page, each with what says how it is to be taken."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

__all__ = ["REPOSITORY", "Block", "blocks", "pages"]

REPOSITORY = Path(__file__).parents[2]

_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    """Why, as a comment right before it says: `<!-- not run: needs … -->`."""

    @property
    def file(self) -> str:
        """What the reader is to save it as, if its first line names a file: `# server.py`."""
        named = re.match(r"# ([\w./-]+\.(?:py|toml|sql))\n", self.text)
        return named[1] if named else ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line} ({self.language or 'no language'})"


def pages() -> list[Path]:
    found = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "examples" / "README.md"]
    return [*found, *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    before = ""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block") and token.map:
            reason = _NOT_RUN.search(before)
            language = token.info.split()[0] if token.info.split() else ""
            yield Block(page, token.map[0] + 1, language, token.content, " ".join(reason[1].split()) if reason else "")
        if token.type in ("fence", "code_block", "html_block", "inline"):
            before = token.content
