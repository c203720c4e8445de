"""`perdure conversations`: as tables for people, as JSON for programs."""

import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Literal, TypeAlias

from rich.table import Table
from rich.text import Text

from perdure.cli.terminal import OUTCOME_COLOURS, ago, console, count, excerpt, printable, reader_may_go, write_json
from perdure.cursors import cursor_of, position_of
from perdure.errors import PerdureError
from perdure.middleware.persistence.archive.reading import files_by_turn
from perdure.middleware.persistence.archive.transcript import transcript
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.turn import ConversationSummary, JsonObject, Turn
from perdure.readable import took

__all__ = ["Form", "list_conversations", "show_conversation", "the_one", "turn_as_json"]

Form: TypeAlias = Literal["table", "markdown", "json"]

_PAGE = 200


def list_conversations(engine: Engine, *, user: str | None, limit: int, before: str | None, as_json: bool) -> None:
    lines = engine.conversations(user, before=position_of(before) if before else None, limit=limit + 1)
    lines, more = lines[:limit], len(lines) > limit
    following = _cursor(lines[-1]) if more else None
    if as_json:
        write_json({"conversations": [_summary_as_json(line) for line in lines], "next": following})
        return
    if not lines:
        console().print("No conversations yet." if before is None else "No more conversations.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    table.add_column("continuation id", overflow="fold", style="cyan")
    table.add_column("user", overflow="fold")
    table.add_column("turns", justify="right")
    table.add_column("last used", no_wrap=True)
    table.add_column("began", no_wrap=True)
    now = engine.clock.now()
    for line in lines:
        table.add_row(
            printable(line.continuation_id),
            printable(line.principal),
            Text(f"{line.turns:,}"),
            Text(ago(line.updated_at, now, brief=True)),  # so that 80 columns have room for an id of 36
            Text(ago(line.created_at, now, brief=True)),
        )
    console().print(table)
    if following is not None:
        console().print(Text(f"\nThere are more: --before {following}", style="dim"), soft_wrap=True)


def show_conversation(
    engine: Engine, continuation_id: str, *, user: str | None, after: int, limit: int | None, form: Form
) -> None:
    summary = the_one(engine, continuation_id, user)
    if form == "markdown":
        files = files_by_turn(engine.store, summary)
        for piece in transcript(summary, islice(_turns(engine, summary, after), limit), files):
            with reader_may_go():
                sys.stdout.buffer.write(piece.encode())  # whatever the terminal's encoding: files are read as UTF-8
        return
    following = after + limit if limit is not None and after + limit < summary.turns else None
    turns = islice(_turns(engine, summary, after), limit)
    if form == "json":
        write_json(
            {
                "continuation_id": continuation_id,
                "user": summary.principal,
                "turns": [turn_as_json(turn) for turn in turns],
                "next": following,
            }
        )
        return
    now = engine.clock.now()
    heading = Text.assemble((printable(continuation_id).plain, "bold cyan"), "  ")
    heading.append(f"user {printable(summary.principal)}, {count(summary.turns, 'turn')}, last used ")
    heading.append(ago(summary.updated_at, now))
    console().print(heading, soft_wrap=True)
    for turn in turns:
        _show_turn(turn, now)
    if following is not None:
        console().print(Text(f"\nThere are more: --after {following}", style="dim"))


def _show_turn(turn: Turn, now: datetime) -> None:
    """One below the other, and not a table: what was said needs the whole width."""
    line = Text.assemble(
        f"\n#{turn.place}  {printable(turn.tool)}  ", (turn.outcome.value, OUTCOME_COLOURS[turn.outcome])
    )
    line.append(f"  {ago(turn.started_at, now)}").append(f"  {took(turn.started_at, turn.ended_at)}", style="dim")
    console().print(line, soft_wrap=True)
    said = Table.grid(padding=(0, 2, 0, 0), expand=True)
    said.add_column(no_wrap=True, style="dim", width=8)
    said.add_column(overflow="fold", ratio=1)
    said.add_row("  prompt", excerpt(turn.prompt))
    if answer := _answer(turn):
        said.add_row("  answer", excerpt(answer))
    console().print(said)


def turn_as_json(turn: Turn) -> JsonObject:
    """Everything that is kept of a turn. Times are ISO 8601 in UTC."""
    answer = turn.answer
    return {
        "turn_id": turn.id,
        "place": turn.place,
        "tool": turn.tool,
        "prompt": turn.prompt,
        "arguments": turn.arguments,
        "answer": answer.text if answer else None,
        "result": answer.result if answer else None,
        "error": answer.error if answer else None,
        "outcome": turn.outcome.value,
        "started_at": turn.started_at.isoformat(),
        "ended_at": turn.ended_at.isoformat() if turn.ended_at else None,
        "deferred": turn.deferred,
        "protocol_version": turn.metadata.get("protocol_version"),
    }


def the_one(engine: Engine, continuation_id: str, user: str | None) -> ConversationSummary:
    found = engine.conversations(user, continuation_id, limit=100)
    if not found:
        whose = f" of the user {user!r}" if user is not None else ""
        raise PerdureError(
            f"There is no conversation {continuation_id!r}{whose}.", remedy="`perdure conversations list` shows them."
        )
    if len(found) > 1:
        users = ", ".join(sorted(line.principal for line in found))
        raise PerdureError(
            f"Several users have a conversation {continuation_id!r}: {users}.", remedy="say whose with --user."
        )
    return found[0]


def _turns(engine: Engine, summary: ConversationSummary, after: int) -> Iterator[Turn]:
    while page := engine.turns(summary.principal, summary.continuation_id, after=after, limit=_PAGE):
        yield from page
        after = page[-1].place or after + len(page)


def _answer(turn: Turn) -> str:
    if turn.answer is None:
        return ""
    if turn.answer.error is not None and not turn.answer.text:
        return f"{turn.answer.error.get('type')}: {turn.answer.error.get('message')}"
    return turn.answer.text


def _summary_as_json(line: ConversationSummary) -> JsonObject:
    return {
        "continuation_id": line.continuation_id,
        "user": line.principal,
        "turns": line.turns,
        "created_at": line.created_at.isoformat(),
        "updated_at": line.updated_at.isoformat(),
        "expires_at": line.expires_at.isoformat() if line.expires_at else None,
    }


def _cursor(line: ConversationSummary) -> str:
    return cursor_of((line.updated_at, line.principal, line.continuation_id))
