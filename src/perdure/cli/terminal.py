"""How things look in a terminal."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache

from rich.console import Console
from rich.text import Text

from perdure.middleware.persistence.turn import JsonObject, Outcome

__all__ = ["OUTCOME_COLOURS", "ago", "console", "count", "excerpt", "printable", "reader_may_go", "write_json"]

OUTCOME_COLOURS = {
    Outcome.ANSWERED: "green",
    Outcome.RUNNING: "cyan",
    Outcome.FAILED: "red",
    Outcome.CANCELLED: "yellow",
    Outcome.INTERRUPTED: "yellow",
}

_LONGEST_EXCERPT = 300

# Stored text may hold escape sequences: what it would do to a terminal, it shall not do.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@cache
def console() -> Console:
    """Colours and the window's width in a terminal; neither where the output is piped."""
    return _Console(highlight=False, emoji=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # for `main`, as whatever else writes: rich would end the process itself, as a failure


@contextmanager
def reader_may_go() -> Iterator[None]:
    """
    Raises:
        BrokenPipeError: In place of the one with a number in it, by which typer would end the process as a failure.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise BrokenPipeError from None


def printable(text: str) -> Text:
    return Text(_UNPRINTABLE.sub("�", text))


def excerpt(text: str) -> Text:
    """The beginning of `text`, with the length of what is left out."""
    if len(text) <= _LONGEST_EXCERPT:
        return printable(text.strip("\n"))
    shown = printable(text[:_LONGEST_EXCERPT].strip("\n"))
    return shown.append(f" … ({len(text) - _LONGEST_EXCERPT:,} more characters)", style="dim")


def count(number: int, what: str) -> str:
    """`1 turn`, `1,200 turns`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def ago(then: datetime, now: datetime, *, brief: bool = False) -> str:
    """`3 min ago`; the date itself for what is older than a week. `brief`: without the time of the day."""
    seconds = (now - then).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h ago"
    if seconds < 7 * 86400:
        return f"{seconds // 86400:.0f} d ago"
    return then.astimezone().strftime("%Y-%m-%d" if brief else "%Y-%m-%d %H:%M")


def write_json(value: JsonObject) -> None:
    """In ASCII: what is stored may hold what no terminal and no pipe can."""
    with reader_may_go():
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")
