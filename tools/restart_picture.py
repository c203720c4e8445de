"""`python -m tools.restart_picture`: docs/images/restart.svg, from what `make demo` really prints."""

import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tools.svg import WITHOUT_FONTS

REPOSITORY = Path(__file__).parents[1]

PICTURE = REPOSITORY / "docs" / "images" / "restart.svg"

WIDTH = 100
"""Columns: so that the longest line stays whole, once the hash in a storage URI is shortened."""


def main() -> None:
    printed = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "restart_demo.py"],
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    terminal = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    shown = re.sub(r"([0-9a-f]{12})[0-9a-f]{52}", r"\1…", printed.rstrip())
    terminal.print(Text.from_ansi(f"$ make demo\n{shown}\n "))  # a last line of its own: the picture cuts into it
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(
        terminal.export_svg(title="make demo", theme=MONOKAI, code_format=WITHOUT_FONTS, unique_id="restart")
    )


if __name__ == "__main__":
    main()
