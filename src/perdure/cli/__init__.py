"""The command `perdure`: for operators, on the machine where the data is."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. A fault the user can mend is one line on stderr and exit code 1, never a traceback."""
    from perdure.cli.app import app  # noqa: PLC0415 - the command line alone pays for typer and rich
    from perdure.errors import PerdureError  # noqa: PLC0415

    try:
        app()
    except PerdureError as error:
        remedy = f"\nRemedy: {error.remedy}" if error.remedy else ""
        sys.stderr.write(f"perdure: {error.what}{remedy}\n")
        raise SystemExit(1) from None
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        sys.stderr.close()
        raise SystemExit(0) from None
