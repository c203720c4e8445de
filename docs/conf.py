"""The site: `make docs`. Pages are Markdown that reads on its own; what only a site needs stands here."""

from pathlib import Path
from typing import Any

import perdure

project = "perdure"
version = release = perdure.__version__
author = copyright = "the authors of perdure"  # noqa: A001 - Sphinx's name

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True

myst_heading_anchors = 4

html_theme = "furo"
html_title = "perdure"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
pygments_style = "tango"

VIEWER = ["viewer"] if Path(__file__).with_name("viewer.md").exists() else []

CHAPTERS = {
    "Begin": ["quickstart", "tutorial", "docker"],
    "Guides": [
        "guides/configuring", "guides/files", "guides/privacy", "guides/conversations", *VIEWER,
        "guides/run", "guides/proxy", "guides/existing-ids", "sdks",
        "guides/backends", "guides/supabase", "guides/postgres", "guides/replicas", "guides/operating",
        "guides/write-a-store",
    ],
    "Reference": [
        "reference/settings", "reference/command-line", "reference/meta", "reference/sql", "reference/python",
    ],
    "What it promises": ["guarantees", "threats", "scale", "benchmarks", "comparison"],
    "Why it is so": ["decisions/*"],
}  # fmt: skip
"""The navigation. Not in index.md: where that is read as it is, directives would be noise."""


def setup(app: Any) -> None:
    app.connect("source-read", _with_navigation)


def _with_navigation(_app: Any, page: str, source: list[str]) -> None:
    if page == "index":
        trees = (
            "```{toctree}\n:hidden:\n:glob:\n:caption: " + chapter + "\n\n" + "\n".join(pages) + "\n```\n"
            for chapter, pages in CHAPTERS.items()
        )
        source[0] += "\n" + "\n".join(trees)
