"""Which pages there are."""

from collections.abc import Callable
from pathlib import Path

from tools.reference.command_line import command_line_page
from tools.reference.meta import meta_page
from tools.reference.python_api import python_page
from tools.reference.settings import settings_page
from tools.reference.sql import sql_page

__all__ = ["FOLDER", "PAGES", "sql_page"]

FOLDER = Path(__file__).parents[2] / "docs" / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "settings": settings_page,
    "command-line": command_line_page,
    "meta": meta_page,
    "python": python_page,
}
"""Those that need nothing but the code."""
