"""A turn as a page shows it: what was said made ready, and cut where it is too long for the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.turn import ConversationSummary, Json, Outcome, StoredFile, Turn
from perdure.viewer.kept_files import may_be_shown
from perdure.viewer.links import Links
from perdure.viewer.markdown import LONGEST, as_html

__all__ = ["FileView", "Said", "TurnView", "files_of", "readable", "view_of"]

_FILES_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Said:
    text: str
    """The beginning, where it is longer than the page admits."""
    html: Markup | None
    """The same as Markdown; None where it is shown as it was written."""
    left_out: int
    """Characters."""
    whole: str
    """Where all of it can be had."""


@dataclass(frozen=True, slots=True)
class FileView:
    file: StoredFile
    link: str
    download: str
    is_image: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    id: str
    place: int
    tool: str
    outcome: Outcome
    started_at: datetime
    ended_at: datetime | None
    deferred: bool
    protocol_version: str
    link: str
    prompt: Said
    arguments: Said | None
    """Beside the prompt."""
    answer: Said | None
    result: Said | None
    error: str
    files: tuple[FileView, ...]


def files_of(engine: Engine, summary: ConversationSummary, turns: Sequence[Turn]) -> dict[str, list[StoredFile]]:
    """By turn. Stores list files newest first, so no more are read than down to the first of these turns."""
    if not turns:
        return {}
    limit = _FILES_AT_ONCE
    while True:
        found = engine.files(summary.principal, summary.continuation_id, limit=limit)
        oldest = found[-1].created_at if found else None
        if len(found) < limit or (oldest is not None and oldest < min(turn.started_at for turn in turns)):
            break
        limit *= 4
    wanted: dict[str, list[StoredFile]] = {turn.id: [] for turn in turns}
    for file in reversed(found):
        if file.turn_id in wanted:
            wanted[file.turn_id].append(file)
    return wanted


def view_of(
    turn: Turn,
    summary: ConversationSummary,
    files: Sequence[StoredFile],
    links: Links,
    *,
    longest: int,
    is_plain: bool = False,
    is_alone: bool = False,
) -> TurnView:
    """`longest`: characters that are shown of a part; `is_plain`: Markdown as it was written, too; `is_alone`: on a
    page of its own, which has room for arguments and results."""
    user, continuation_id, place = summary.principal, summary.continuation_id, turn.place or 0

    def said(part: str, text: str, *, is_markdown: bool = False) -> Said:
        shown = text if len(text) <= longest else text[:longest].rstrip()
        html = as_html(shown, lambda uri: links.file(user, uri)) if is_markdown and not is_plain else None
        return Said(shown, html, len(text) - len(shown), links.text(user, continuation_id, place, part))

    answer = turn.answer
    others, result = None, None
    if is_alone:
        others = {name: value for name, value in turn.arguments.items() if value != turn.prompt}
        result = answer.result if answer is not None else None
    return TurnView(
        id=turn.id,
        place=place,
        tool=turn.tool,
        outcome=turn.outcome,
        started_at=turn.started_at,
        ended_at=turn.ended_at,
        deferred=turn.deferred,
        protocol_version=str(turn.metadata.get("protocol_version") or ""),
        link=links.turn(user, continuation_id, place),
        prompt=said("prompt", turn.prompt),
        arguments=said("arguments", readable(others)) if others else None,
        answer=said("answer", answer.text, is_markdown=not _is_json(answer.text))
        if answer is not None and answer.text
        else None,
        result=said("result", readable(result)) if result is not None else None,
        error=_error_of(answer.error) if answer is not None and answer.error is not None else "",
        files=tuple(_file_view(file, user, links) for file in files),
    )


def _is_json(text: str) -> bool:
    """Whether a tool gave an object or an array, of which Markdown would make something else."""
    if text.strip()[:1] not in ("{", "[") or len(text) > LONGEST:
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def readable(value: Json, *, ensure_ascii: bool = False) -> str:
    """In lines, unless it is nested too deeply for that: Python may read more levels than it indents."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=ensure_ascii)
    except RecursionError:
        return json.dumps(value, ensure_ascii=ensure_ascii)


def _error_of(error: Mapping[str, Json]) -> str:
    return f"{error.get('type')}: {error.get('message')}"


def _file_view(file: StoredFile, user: str, links: Links) -> FileView:
    return FileView(
        file,
        link=links.file(user, file.uri),
        download=links.file(user, file.uri, download=True),
        is_image=may_be_shown(file),
    )
