"""How things look in a terminal."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.text import Text

from perdure.middleware.persistence.turn import JsonObject, Outcome
from perdure.readable import ago, count, printable_text

__all__ = ["OUTCOME_COLOURS", "ago", "console", "count", "excerpt", "printable", "reader_may_go", "write_json"]

OUTCOME_COLOURS = {
    Outcome.ANSWERED: "green",
    Outcome.RUNNING: "cyan",
    Outcome.FAILED: "red",
    Outcome.CANCELLED: "yellow",
    Outcome.INTERRUPTED: "yellow",
}

_LONGEST_EXCERPT = 300


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
    """What `text` would do to a terminal, it shall not do."""
    return Text(printable_text(text))


def excerpt(text: str) -> Text:
    """The beginning of `text`, with the length of what is left out."""
    if len(text) <= _LONGEST_EXCERPT:
        return printable(text.strip("\n"))
    shown = printable(text[:_LONGEST_EXCERPT].strip("\n"))
    return shown.append(f" … ({len(text) - _LONGEST_EXCERPT:,} more characters)", style="dim")


def write_json(value: JsonObject) -> None:
    """In ASCII: what is stored may hold what no terminal and no pipe can."""
    with reader_may_go():
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")
