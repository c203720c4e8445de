"""The commands and their options. What they do is in the modules they call."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import perdure
from perdure.cli.conversation_commands import conversations
from perdure.cli.counting import show_statistics
from perdure.cli.files import get_file, list_files
from perdure.cli.migrate import migrate, migration_text
from perdure.cli.moving import export_archive, export_transcripts, import_archive
from perdure.cli.options import Json, User, runtime_of
from perdure.cli.removing import purge
from perdure.cli.run import run
from perdure.cli.spool import flush_spool, show_quarantine, show_spool
from perdure.cli.ui import show_page
from perdure.settings_loader import load_settings

__all__ = ["app"]

app = typer.Typer(
    name="perdure",
    help="Conversations of MCP tools that survive restarts: look at what is kept.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(conversations, name="conversations")
files = typer.Typer(help="List the files that tools gave out, and get them back.", no_args_is_help=True)
app.add_typer(files, name="files")
spool = typer.Typer(help="See what waits on this machine for a store that is away.", no_args_is_help=True)
app.add_typer(spool, name="spool")


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


Whose = Annotated[
    str | None, typer.Option("--user", help="Whose files: the token's subject. Else the configured user, or `local`.")
]
Conversation = Annotated[str | None, typer.Option("--conversation", help="Only of this conversation.")]


@files.command("list", epilog="Example: perdure files list --conversation my-project")
def list_files_command(
    context: typer.Context,
    user: Whose = None,
    conversation: Conversation = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List files, the newest first."""
    list_files(runtime_of(context), user=user, conversation=conversation, name=None, limit=limit, as_json=as_json)


@files.command("versions", epilog="Example: perdure files versions report.pdf --conversation my-project")
def versions_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The file's logical name, as the tool called it.")],
    user: Whose = None,
    conversation: Conversation = None,
    as_json: Json = False,
) -> None:
    """List the versions of one file, the newest first."""
    list_files(runtime_of(context), user=user, conversation=conversation, name=name, limit=10_000, as_json=as_json)


@files.command("get", epilog="Example: perdure files get storage://mcp-files/local/…/report.pdf --output report.pdf")
def get_command(
    context: typer.Context,
    uri: Annotated[str, typer.Argument(help="The storage URI, as a result gave it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it: a file that is not there yet.")],
    user: Whose = None,
) -> None:
    """Write one file to a place of your choice."""
    get_file(runtime_of(context), uri, output, user=user)


@spool.command("status", epilog="Example: perdure spool status --json")
def spool_status_command(context: typer.Context, as_json: Json = False) -> None:
    """Say what waits, for which store, and since when."""
    show_spool(runtime_of(context), as_json=as_json)


@spool.command("flush", epilog="Example: perdure spool flush --seconds 60")
def spool_flush_command(
    context: typer.Context,
    seconds: Annotated[float, typer.Option(min=0.1, help="At most so long.")] = 30.0,
) -> None:
    """Send now what waits; exit code 1 if some of it still waits after that."""
    if not flush_spool(runtime_of(context), seconds=seconds):
        raise typer.Exit(1)


@spool.command("quarantine", epilog="Example: perdure spool quarantine --retry all")
def spool_quarantine_command(
    context: typer.Context,
    retry: Annotated[
        str | None, typer.Option(metavar="ID", help="Send this one again: a turn's id, a file's key, or `all`.")
    ] = None,
    discard: Annotated[str | None, typer.Option(metavar="ID", help="Delete this one for good.")] = None,
    as_json: Json = False,
) -> None:
    """List what the store refused, and why. It holds up nothing else."""
    if retry is not None and discard is not None:
        raise typer.BadParameter("--retry and --discard exclude each other.")
    show_quarantine(runtime_of(context), retry=retry, discard=discard, as_json=as_json)


@app.command("doctor", epilog="Example: USE_SUPABASE=true perdure doctor --fix")
def doctor_command(
    context: typer.Context,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended from here.")] = False,
    as_json: Json = False,
) -> None:
    """Look whether everything is as it must be, a line for each thing; exit code 1 if something is not."""
    from perdure.cli.doctor.report import doctor  # noqa: PLC0415 - it imports what only Supabase needs

    if not doctor(load_settings(context.obj), fix=fix, as_json=as_json):
        raise typer.Exit(1)


@app.command(
    "proxy",
    context_settings={"allow_interspersed_args": False},
    epilog="Example: perdure proxy -- npx -y @modelcontextprotocol/server-everything",
)
def proxy_command(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND …", help="What starts the server, and its arguments.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="A streamable HTTP server, instead of a command.")] = None,
    headers: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME:VALUE", help="Sent to it with every request.")
    ] = None,
) -> None:
    """Stand before any MCP server, and keep the calls of the tools that perdure.toml names. Serves stdio."""
    from perdure.cli.proxy import proxy  # noqa: PLC0415 - it alone needs an event loop

    if context.obj is not None:
        os.environ["PERDURE_CONFIG"] = str(context.obj.absolute())
    raise typer.Exit(proxy(command or [], url, headers or []))


@app.command("export", epilog="Example: perdure export backup-2026-11-25 --user alice")
def export_command(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    user: User = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="For people to read: a Markdown file for each conversation.")
    ] = False,
) -> None:
    """Write everything that is kept, files too, to a folder of plain files: to move it, or to put it away."""
    (export_transcripts if markdown else export_archive)(runtime_of(context), folder, user=user)


@app.command("import", epilog="Example: USE_SUPABASE=true perdure import backup-2026-11-25")
def import_command(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder that `perdure export` wrote.")],
) -> None:
    """Bring what was exported into the backend that is set now. Again does no harm."""
    import_archive(load_settings(context.obj), folder)


@app.command("purge", epilog="Example: perdure purge --dry-run")
def purge_command(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    at_most: Annotated[
        int | None, typer.Option(min=1, max=1_000_000_000, help="At most so many conversations.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Delete for good what has expired, with the files that nothing else needs."""
    if not purge(runtime_of(context), dry_run=dry_run, at_most=at_most, as_json=as_json):
        raise typer.Exit(1)


@app.command("stats", epilog="Example: perdure stats --user alice --json")
def stats_command(context: typer.Context, user: User = None, as_json: Json = False) -> None:
    """Count what is kept, what waits, and what has expired."""
    show_statistics(runtime_of(context), user=user, as_json=as_json)


@app.command("ui", epilog="Example: perdure ui --open")
def ui_command(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes any that is free.")] = 8377,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser, too.")] = False,
) -> None:
    """Show what is kept as a page in a browser of this machine. It only reads; Ctrl-C ends it."""
    show_page(runtime_of(context), port=port, opens=opens)


@app.command("migrate", epilog="Example: PERDURE_DATABASE_URL=postgresql://… perdure migrate")
def migrate_command(
    context: typer.Context,
    database_url: Annotated[
        str | None,
        typer.Option(help="The database; else PERDURE_DATABASE_URL, which other users of this machine cannot see."),
    ] = None,
    as_text: Annotated[
        bool, typer.Option("--print", help="Print the SQL instead: to be pasted into Supabase's SQL editor.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write it to supabase/migrations instead: the Supabase CLI pushes it."),
    ] = None,
) -> None:
    """Make the tables and functions in Postgres or Supabase, or bring them up to date. Again does no harm."""
    if as_text or write:
        migration_text(write)
    else:
        migrate(load_settings(context.obj), database_url)


class _AsWritten(TyperCommand):
    """Leaves the words to whoever is started: `--` and options too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args[:1] in ([], ["--help"]) else ["--", *args])


@app.command("run", cls=_AsWritten, epilog="Example: perdure run -- fastmcp run server.py:app")
def run_command(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SERVER.PY | -m MODULE | -- COMMAND [ARGS]...",
            help="As for `python`; or a command that is installed.",
        ),
    ],
) -> None:
    """Start an MCP server with memory for the tools that perdure.toml names. The server's code is not touched."""
    run(words, config=context.obj)


@app.command("tools", epilog="Example: perdure tools -- python server.py --verbose")
def tools_command(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND [ARGS]…", help="What starts the server, after --.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Or the address of a running one, over streamable HTTP.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every setting, the built-in values too.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the server has to answer.")] = 30.0,
    as_json: Json = False,
) -> None:
    """List a server's tools: which are kept, with which settings, and where each came from."""
    from perdure.cli.tools import show_tools  # noqa: PLC0415 - it brings an MCP SDK with it

    show_tools(command or [], url, context.obj, seconds=timeout, everything=everything, as_json=as_json)
