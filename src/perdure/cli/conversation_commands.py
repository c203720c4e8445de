"""The commands under `perdure conversations`, and their options. What they do is in the modules they call."""

from typing import Annotated

import typer

from perdure.cli.conversations import Form, list_conversations, show_conversation
from perdure.cli.forking import fork_conversation
from perdure.cli.options import Before, Json, User, Yes, runtime_of
from perdure.cli.removing import delete, forget
from perdure.cli.searching import search
from perdure.middleware.persistence.turn import Outcome

__all__ = ["conversations"]

_MOST_TURNS = 1_000_000_000

conversations = typer.Typer(help="List, read, search, fork and delete what is kept.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The conversation's continuation id.")]


@conversations.command("list", epilog="Example: perdure conversations list --user alice --limit 20")
def list_command(
    context: typer.Context,
    user: User = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    before: Before = None,
    as_json: Json = False,
) -> None:
    """List conversations, the most recently used first."""
    list_conversations(runtime_of(context).engine, user=user, limit=limit, before=before, as_json=as_json)


@conversations.command("show", epilog="Example: perdure conversations show my-project --json")
def show_command(
    context: typer.Context,
    continuation_id: Id,
    user: User = None,
    after: Annotated[int, typer.Option(min=0, help="Only turns after this place.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, max=_MOST_TURNS, help="At most so many turns.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown, nothing shortened.")] = False,
    as_json: Json = False,
) -> None:
    """Show the turns of one conversation, in their order."""
    if markdown and as_json:
        raise typer.BadParameter("--markdown and --json exclude each other.")
    form: Form = "json" if as_json else "markdown" if markdown else "table"
    show_conversation(runtime_of(context).engine, continuation_id, user=user, after=after, limit=limit, form=form)


@conversations.command("search", epilog="""Example: perdure conversations search 'lisbon "table for two" since:30d'""")
def search_command(
    context: typer.Context,
    question: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORDS…",
            help='All words must be there. Also "a phrase", begin*, this or that, -without; and filters: tool:NAME'
            " user:NAME in:ID outcome:failed since:7d until:2026-01-31.",
        ),
    ] = None,
    user: User = None,
    conversation: Annotated[str | None, typer.Option("--in", metavar="ID", help="Only in this conversation.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only turns of this tool.")] = None,
    outcome: Annotated[str | None, typer.Option(help=f"Only turns that ended so: {', '.join(Outcome)}.")] = None,
    since: Annotated[str | None, typer.Option(help="2026-01-31, 2026-01-31T18:00, or how long ago: 7d, 12h.")] = None,
    until: Annotated[str | None, typer.Option(help="Likewise; a date counts whole.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    before: Before = None,
    as_json: Json = False,
) -> None:
    """Find messages by their words. Exit code 1 if none is found."""
    filters = {"user": user, "in": conversation, "tool": tool, "outcome": outcome, "since": since, "until": until}
    runtime = runtime_of(context)
    if not search(runtime, question or [], filters, limit=limit, before=before, as_json=as_json):
        raise typer.Exit(1)


@conversations.command("fork", epilog="Example: perdure conversations fork my-project --at 12 --as my-project-2")
def fork_command(
    context: typer.Context,
    continuation_id: Id,
    at: Annotated[int | None, typer.Option("--at", min=1, help="The last turn to take along; else all.")] = None,
    new_id: Annotated[str | None, typer.Option("--as", metavar="NEW_ID", help="Its id; else one is made.")] = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Go on from a turn of another conversation. Nothing is copied."""
    fork_conversation(runtime_of(context).engine, continuation_id, at=at, new_id=new_id, user=user, as_json=as_json)


@conversations.command("delete", epilog="Example: perdure conversations delete my-project --user alice")
def delete_command(
    context: typer.Context,
    continuation_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The conversation's continuation id.")
    ] = None,
    user: User = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that --user has, expired or not: for a request to be forgotten.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete a conversation for good, its files too."""
    runtime = runtime_of(context)
    if everything and user is not None and continuation_id is None:
        all_gone = forget(runtime, user, yes=yes, as_json=as_json)
    elif continuation_id is not None and not everything:
        all_gone = delete(runtime, continuation_id, user=user, yes=yes, as_json=as_json)
    else:
        raise typer.BadParameter("name one conversation by its ID, or a whole user by --all --user NAME.")
    if not all_gone:
        raise typer.Exit(1)
