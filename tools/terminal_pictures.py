"""Pictures of what `perdure` shows in a terminal: real commands, in a real terminal of a given width, drawn as SVG.

python -m tools.terminal_pictures                              # makes docs/images/*.svg anew
python -m tools.terminal_pictures --into /tmp/looks --all      # every picture, 80 and 120 columns, dark and light
"""

import argparse
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from io import StringIO
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ

from rich.console import Console
from rich.terminal_theme import MONOKAI, TerminalTheme
from rich.text import Text

from perdure.middleware.persistence.stores.sqlite import SqliteStore
from perdure.middleware.persistence.turn import Answer, Outcome
from perdure.testing import FrozenClock
from perdure.testing.turns import a_file, a_turn, answered, ended
from tools.svg import WITHOUT_FONTS

PERDURE = str(Path(sys.executable).with_name("perdure"))

LIGHT = TerminalTheme(  # the colours that light terminals use by default, such as those of GNOME and of macOS
    (255, 255, 255),
    (23, 20, 33),
    [(23, 20, 33), (192, 28, 40), (38, 162, 105), (162, 115, 76), (18, 72, 139), (163, 71, 186), (42, 161, 179),
     (208, 207, 204)],
    [(94, 92, 100), (246, 97, 81), (51, 209, 122), (233, 173, 12), (42, 123, 222), (192, 97, 203), (51, 199, 222),
     (255, 255, 255)],
)  # fmt: skip
THEMES = {"dark": MONOKAI, "light": LIGHT}

SHOWN = ("conversations-list", "conversations-show", "conversations-search")
"""Which stand in the documentation."""

COMMANDS: dict[str, Sequence[str]] = {
    "conversations-list": ("conversations", "list", "--limit", "8"),
    "conversations-show": ("conversations", "show", "release-notes"),
    "conversations-search": ("conversations", "search", "migration", "--limit", "4"),
    "conversations-search-none": ("conversations", "search", "nothing-like-it"),
    "conversations-search-mistake": ("conversations", "search", '"unended'),
    "conversations-unknown": ("conversations", "show", "no-such-thing"),
    "files-list": ("files", "list"),
    "files-versions": ("files", "versions", "report.pdf"),
    "stats": ("stats",),
    "doctor": ("doctor",),
    "spool-status": ("spool", "status"),
    "purge": ("purge", "--dry-run"),
    "tools": ("tools", "--", sys.executable, "examples/chat_server.py"),
    "help": ("conversations", "--help"),
    "mistake": ("conversations", "list", "--limit", "minus"),
    "no-database": ("--config", "/nowhere/perdure.toml", "stats"),
}


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__)
    wanted.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    wanted.add_argument("--all", action="store_true")
    given = wanted.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="perdure-pictures-") as folder:
        environment = environment_in(Path(folder))
        fill(Path(folder) / "data")
        for name in COMMANDS if given.all else SHOWN:
            for width in (80, 120) if given.all else (80,):
                said = run(COMMANDS[name], width, environment)
                for theme in THEMES if given.all else ("dark",):
                    file = given.into / (f"{name}-{width}-{theme}.svg" if given.all else f"{name}.svg")
                    file.write_text(drawn(COMMANDS[name], said, width, THEMES[theme]), encoding="utf-8")
                    print(file)


def environment_in(folder: Path) -> Mapping[str, str]:
    settings = folder / "perdure.toml"
    settings.write_text('[tools.codereview]\nmax_turns = 5\n\n[tools.chat]\nexpire_after = "90d"\n')
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "SUPABASE_"))}
    kept.pop("NO_COLOR", None)
    return kept | {
        "PERDURE_CONFIG": str(settings), "PERDURE_DATA_DIR": str(folder / "data"), "TERM": "xterm-256color",
    }  # fmt: skip


def fill(data: Path) -> None:
    """As a few weeks of use leave it."""
    data.mkdir()
    now = datetime.now(UTC).replace(microsecond=0)
    clock = FrozenClock()
    store = SqliteStore(data / "perdure.db", clock)

    def told(name: str, tool: str, ago: timedelta, prompt: str, text: str, *files: str, failed: bool = False) -> None:
        given = tuple(a_file("local", file, f"{len(prompt):x}{number}") for number, file in enumerate(files))
        turn = a_turn(
            prompt, continuation_id=name, principal="local", tool=tool, started_at=now - ago, files=given,
            expire_after=timedelta(days=90) if tool == "chat" else None,
        )  # fmt: skip
        clock.advance(now - ago - clock.now())
        error = Answer(error={"type": "TimeoutError", "message": "the model did not answer within 60 s"})
        store.finish(ended(turn, Outcome.FAILED, error) if failed else answered(turn, text))

    day, hour, minute = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
    for week in reversed(range(6)):
        told(
            f"weekly-{week}",
            "chat",
            (7 * week + 3) * day,
            f"What is open for week {week}?",
            "Three reviews, one migration.",
        )
    told("0198c2b4-7c1e-7b5a-9d5e-0a1b2c3d4e5f", "thinkdeep", 2 * day, "Why is the first search slow?",
         "It makes the index of words first; the next ones only add to it.")  # fmt: skip
    told("pricing-study", "chat", 5 * hour, "Compare the three plans.", "See the report.", "report.pdf", "figures.csv")
    told("pricing-study", "chat", 4 * hour, "And with the new discount, please?", "Here it is again.", "report.pdf")
    told("release-notes", "codereview", 50 * minute, "Is the migration safe to run twice?",
         "Yes. Each migration takes a lock, looks whether it has run, and records itself in the same\n"
         "transaction:\n\n    if exists (select from perdure_migrations where version = 9) then …")  # fmt: skip
    told("release-notes", "chat", 20 * minute, "Write the notes.", "", failed=True)
    told("release-notes", "chat", 8 * minute, "Write the notes, shorter, and name the migration first.",
         "1. Run the migration 0009 on Postgres; old databases go on without it.\n2. Forks are found.")  # fmt: skip
    store.close()


def run(command: Sequence[str], width: int, environment: Mapping[str, str]) -> str:
    """What the command writes to a terminal that is so many columns wide."""
    terminal, child = pty.openpty()
    ioctl(child, TIOCSWINSZ, pack("HHHH", 40, width, 0, 0))
    process = subprocess.Popen(
        [PERDURE, *command], stdin=child, stdout=child, stderr=child, env=dict(environment), close_fds=True
    )
    os.close(child)
    said = b""
    while select.select([terminal], [], [], 30)[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # as Linux tells that the other end is closed
            break
        if not piece:
            break
        said += piece
    process.wait()
    os.close(terminal)
    return _ERASED.sub("", said.decode(errors="replace").replace("\r\n", "\n"))


_ERASED = re.compile(r"[^\n]*\n(\x1b\[\?25[lh])?\r\x1b\[1A\x1b\[2K|\x1b\[\?25[lh]")
"""What a spinner has shown and taken back."""


def drawn(command: Sequence[str], said: str, width: int, theme: TerminalTheme) -> str:
    shown = " ".join(f"'{word}'" if re.search(r"[\s\"]", word) else word for word in command).replace(
        sys.executable, "python"
    )
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ perdure {shown}", style="bold"))
    for line in Text.from_ansi(said.rstrip("\n")).split(allow_blank=True):
        for row in line.divide(range(width, len(line), width)) or [line]:  # as a terminal does, in the midst of words
            console.print(row, soft_wrap=True)
    return console.export_svg(title="perdure", theme=theme, code_format=WITHOUT_FONTS)


if __name__ == "__main__":
    main()
