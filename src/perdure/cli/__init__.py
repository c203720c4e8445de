"""The command `perdure`: for operators, on the machine where the data is."""

import sys
from typing import TYPE_CHECKING, NoReturn, cast

if TYPE_CHECKING:
    import typer

__all__ = ["main"]


def main() -> None:
    """Run the command line. A mistake or a fault is one line on stderr and its remedy, never a traceback.

    Exit codes: 0 done; 1 not done, or nothing found; 2 the command was written wrongly; 130 interrupted.
    """
    import typer  # noqa: PLC0415 - the command line alone pays for typer and rich

    from perdure.cli.app import app  # noqa: PLC0415
    from perdure.errors import PerdureError  # noqa: PLC0415

    # Newer typers bring a click of their own, older ones use the package. This is UsageError in either.
    usage_error = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
    try:
        code = app(prog_name="perdure", standalone_mode=False)
    except PerdureError as error:
        _end(error.what, error.remedy, code=1)
    except typer.Abort:
        _end("Stopped. What was not said to be done was not done.", "", code=130)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        sys.stderr.close()
        raise SystemExit(0) from None
    except UnicodeEncodeError as error:
        _end_of_what_is_no_text(error)
    except usage_error as error:
        _end_of_misuse(error)
    raise SystemExit(code or 0)


def _end_of_what_is_no_text(error: UnicodeEncodeError) -> NoReturn:
    part = error.object[error.start : error.end]
    if any("\ud800" <= character <= "\udfff" for character in part):  # as Python has bytes of the command line
        what = f"{error.object!a} is no text in {sys.getfilesystemencoding()}."
        _end(what, "copy it from a list; the terminal and the locale should be UTF-8.", code=1)
    _end(f"{part!a} cannot be written in {error.encoding}.", "set PYTHONIOENCODING=utf-8, or use --json.", code=1)


def _end_of_misuse(error: "typer.BadParameter") -> NoReturn:
    message = error.format_message().rstrip()
    if "\n" in message:  # The help itself, of a group that was named without a command.
        sys.stderr.write(f"{message}\n")
        raise SystemExit(error.exit_code) from None
    command = error.ctx.command_path if error.ctx is not None else "perdure"
    _end(message, f"`{command} --help` shows how it is written.", code=error.exit_code)


def _end(what: str, remedy: str, *, code: int) -> NoReturn:
    sys.stderr.write(f"perdure: {what}\n" + (f"Remedy: {remedy}\n" if remedy else ""))
    raise SystemExit(code) from None
