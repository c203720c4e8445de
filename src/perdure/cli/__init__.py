"""The command `perdure`: for operators, on the machine where the data is."""

import contextlib
import errno
import gc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from perdure.readable import UNPRINTABLE

if TYPE_CHECKING:
    import typer

__all__ = ["main"]


_INTERRUPTED = 130

_OBJECTS_BETWEEN_LOOKS = 100_000

_LONGEST_LINE = 1000
"""Characters of a message. What was wrong stands at its beginning or at its end."""


def main() -> None:
    """Run the command line. A mistake or a fault is one line on stderr and its remedy, never a traceback.

    Exit codes: 0 done; 1 not done, or nothing found; 2 the command was written wrongly; 130 interrupted.
    """
    _open_what_is_closed()
    try:
        with _seldom_looking_for_garbage():
            code = _code_of_the_command()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _end("Stopped before its end. What was done until then stays.", "", code=code)
    raise SystemExit(code)


def _code_of_the_command() -> int:
    import typer  # noqa: PLC0415 - the command line alone pays for typer and rich

    from perdure.cli.app import app  # noqa: PLC0415
    from perdure.errors import PerdureError  # noqa: PLC0415

    # Newer typers bring a click of their own, older ones use the package. This is UsageError in either.
    usage_error = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
    try:
        code = app(prog_name="perdure", standalone_mode=False)
        sys.stdout.flush()
    except PerdureError as error:
        _end(error.what, error.remedy, code=1)
    except typer.Abort:
        _end("Stopped. What was not said to be done was not done.", "", code=_INTERRUPTED)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        _write_no_more()
        return 0
    except UnicodeEncodeError as error:
        _end_of_what_is_no_text(error)
    except OSError as error:
        _end_of_what_the_system_refused(error)
    except usage_error as error:
        _end_of_misuse(error)
    return int(code or 0)


def _end_of_what_is_no_text(error: UnicodeEncodeError) -> NoReturn:
    part = error.object[error.start : error.end]
    if any("\ud800" <= character <= "\udfff" for character in part):  # as Python has bytes of the command line
        what = f"{error.object!a} is no text in {sys.getfilesystemencoding()}."
        _end(what, "copy it from a list; the terminal and the locale should be UTF-8.", code=1)
    _end(f"{part!a} cannot be written in {error.encoding}.", "set PYTHONIOENCODING=utf-8, or use --json.", code=1)


def _end_of_what_the_system_refused(error: OSError) -> NoReturn:
    reason = error.strerror or str(error)
    if error.filename is not None:
        what = f"{error.filename} cannot be used: {reason}."
    else:  # Only what goes to stdout has no name: who writes to a file says to which.
        what = f"What was to be shown cannot be written: {reason}."
        _write_no_more()
    _end(what, "free some space." if error.errno == errno.ENOSPC else "look where it leads, and try again.", code=1)


@contextlib.contextmanager
def _seldom_looking_for_garbage() -> Iterator[None]:
    """What is imported stays, and looking at it again and again took a quarter of a command's time."""
    often = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        gc.set_threshold(*often)


def _open_what_is_closed() -> None:
    """Who closed it wants to see nothing. Python has None in its place, which nobody can write to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end


def _write_no_more() -> None:
    """What is left to be written goes nowhere: else Python tries once more at the end, and complains of that, too.

    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_of_misuse(error: "typer.BadParameter") -> NoReturn:
    message = error.format_message().rstrip()
    if "\n" in message:  # The help itself, of a group that was named without a command.
        _say(f"{message}\n")
        raise SystemExit(error.exit_code) from None
    command = error.ctx.command_path if error.ctx is not None else "perdure"
    _end(message, f"`{command} --help` shows how it is written.", code=error.exit_code)


def _end(what: str, remedy: str, *, code: int) -> NoReturn:
    _say(f"perdure: {_on_one_line(what)}\n" + (f"Remedy: {_on_one_line(remedy)}\n" if remedy else ""))
    raise SystemExit(code) from None


def _on_one_line(text: str) -> str:
    """Names that others chose stand in it: they shall neither act on the terminal nor fill it."""
    if len(text) > _LONGEST_LINE:
        text = f"{text[: _LONGEST_LINE // 2]} … {text[-_LONGEST_LINE // 2 :]}"
    return re.sub(UNPRINTABLE, lambda found: ascii(found[0])[1:-1], text.replace("\n", "\\n"))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # The exit code says it all the same.
        sys.stderr.write(text)
