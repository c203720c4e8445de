"""`perdure stats`: how much is kept."""

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from perdure.cli.terminal import OUTCOME_COLOURS, ago, console, count, printable, write_json
from perdure.middleware.persistence.turn import Outcome
from perdure.middleware.persistence.upkeep import Statistics
from perdure.middleware.persistence.wiring import Runtime

__all__ = ["show_statistics"]


def show_statistics(runtime: Runtime, *, user: str | None, as_json: bool) -> None:
    kept = runtime.engine.store.statistics(user)
    waiting = sum(line.turns for line in runtime.spool.status()) if runtime.spool is not None and user is None else None
    if as_json:
        write_json(
            {
                "user": user,
                "users": kept.users,
                "conversations": kept.conversations,
                "expired": kept.expired,
                "turns": kept.turns,
                "outcomes": kept.outcomes,
                "files": kept.files,
                "file_bytes": kept.file_bytes,
                "oldest": kept.oldest.isoformat() if kept.oldest else None,
                "newest": kept.newest.isoformat() if kept.newest else None,
                "waiting_turns": waiting,
            }
        )
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if user is None:
        table.add_row("users", f"{kept.users:,}")
    else:
        table.add_row("user", printable(user))
    table.add_row("conversations", _conversations(kept))
    table.add_row("turns", _turns(kept))
    table.add_row("files", f"{kept.files:,}, {decimal(kept.file_bytes)}")
    if kept.oldest is not None and kept.newest is not None:
        now = runtime.engine.clock.now()
        table.add_row("first, last used", f"{ago(kept.oldest, now)}, {ago(kept.newest, now)}")
    if waiting is not None:
        table.add_row("in the spool", f"{count(waiting, 'turn')}: see `perdure spool status`" if waiting else "nothing")
    console().print(table)


def _conversations(kept: Statistics) -> Text:
    text = Text(f"{kept.conversations:,}")
    if kept.expired:
        text.append(f"; {kept.expired:,} more have expired: `perdure purge` deletes them", style="yellow")
    return text


def _turns(kept: Statistics) -> Text:
    text = Text(f"{kept.turns:,}")
    for number, (outcome, turns) in enumerate(kept.outcomes.items()):
        text.append(", " if number else ": ").append(f"{turns:,} {outcome}", style=OUTCOME_COLOURS[Outcome(outcome)])
    return text
