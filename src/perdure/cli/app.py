"""The commands and their options. What they do is in the modules they call."""

from pathlib import Path
from typing import Annotated

import typer

import perdure
from perdure.cli.conversations import list_conversations, show_conversation
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.wiring import build
from perdure.settings_loader import load_settings

__all__ = ["app"]

app = typer.Typer(
    name="perdure",
    help="Conversations of MCP tools that survive restarts: look at what is kept.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
conversations = typer.Typer(help="List the conversations that are kept, and read them.", no_args_is_help=True)
app.add_typer(conversations, name="conversations")

User = Annotated[str | None, typer.Option("--user", help="Only this user's (the token's subject; `local` on stdio).")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable, everything, nothing shortened.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"perdure {perdure.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", help="The settings file; else PERDURE_CONFIG, else the user's own.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = config


@conversations.command("list", epilog="Example: perdure conversations list --user alice --limit 20")
def list_command(
    context: typer.Context,
    user: User = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    before: Annotated[
        str | None, typer.Option(help="Continue after an earlier page: the `next` that it ended with.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List conversations, the most recently used first."""
    list_conversations(_engine(context), user=user, limit=limit, before=before, as_json=as_json)


@conversations.command("show", epilog="Example: perdure conversations show my-project --json")
def show_command(
    context: typer.Context,
    continuation_id: Annotated[str, typer.Argument(metavar="ID", help="The conversation's continuation id.")],
    user: User = None,
    after: Annotated[int, typer.Option(min=0, help="Only turns after this place.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many turns.")] = None,
    as_json: Json = False,
) -> None:
    """Show the turns of one conversation, in their order."""
    show_conversation(_engine(context), continuation_id, user=user, after=after, limit=limit, as_json=as_json)


def _engine(context: typer.Context) -> Engine:
    return build(load_settings(context.obj)).engine
