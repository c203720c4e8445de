"""docs/reference/command-line.md, from the commands as they are."""

from collections.abc import Iterator

import typer.main
from typer.core import TyperCommand, TyperGroup

from perdure.cli.app import app
from tools.reference.source import table

__all__ = ["command_line_page"]


def command_line_page() -> str:
    root = typer.main.get_command(app)
    parts = "\n".join(_command(root, typer.Context(root, info_name="perdure"), level=2))
    return f"""\
# Command line

Every command with its arguments and options, as its `--help` has them. What one does with them:
[finding, reading and removing](../guides/conversations.md), [operating](../guides/operating.md).

<!-- Made by `make reference`: change src/perdure/cli instead. -->

| exit code | |
| --- | --- |
| 0 | done |
| 1 | not done, or nothing found: one line on stderr says what happened, and the remedy |
| 2 | the command is written wrongly |
| 130 | interrupted |

{parts}"""


def _command(command: TyperCommand | TyperGroup, context: typer.Context, *, level: int) -> Iterator[str]:
    yield f"{'#' * level} `{context.command_path}`\n"
    yield f"{command.help}\n"
    rows = [
        [f"`{names}`", what]
        for parameter in command.get_params(context)
        if (shown := parameter.get_help_record(context)) is not None and "--help" not in parameter.opts
        for names, what in [shown]
    ]
    if isinstance(command, TyperGroup):
        if rows:
            yield table(["option", ""], rows)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            if not below.hidden:
                yield from _command(below, typer.Context(below, info_name=name, parent=context), level=level + 1)
        return
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"`{usage}`\n"
    if rows:
        yield table(["argument or option", ""], rows)
    if command.epilog:
        yield f"{command.epilog.replace('Example: ', 'Example: `', 1)}`\n"
