"""The list of conversations: each with what was asked in it last, or with the newest turn that a filter admits."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from perdure.cursors import cursor_of, hit_position_of, position_of
from perdure.errors import StoreError
from perdure.middleware.persistence.engine import Engine
from perdure.middleware.persistence.question import Question, question_of
from perdure.middleware.persistence.turn import ConversationSummary, Outcome, Turn
from perdure.middleware.persistence.upkeep import Hit, HitPosition

__all__ = ["Line", "lines_of"]

_LONGEST = 200
"""Characters of a prompt."""

_AT_ONCE = 8
"""Newest turns that are asked for side by side: with a store far away they cost one round trip each."""

_HITS_AT_ONCE, _MOST_HITS = 100, 500
"""Turns that are looked at for one page, where a filter asks for a tool or an outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    principal: str
    continuation_id: str
    at: datetime
    turns: int | None = None
    """None where a filter admits only some, which nobody has counted."""
    place: int | None = None
    """Of the turn that is shown; None if it could not be read."""
    prompt: str = ""
    tool: str = ""
    outcome: Outcome | None = None


def lines_of(
    engine: Engine, filters: Mapping[str, str | None], before: str | None, *, limit: int
) -> tuple[list[Line], str | None]:
    """A page, and where the next one begins; None if there is none.

    Raises:
        QuestionError: There is no such outcome.
        PerdureError: No page ended with `before`.
    """
    if filters.get("tool") or filters.get("outcome"):
        return _with_turns_of(engine, question_of("", engine.clock.now(), filters), before, limit)
    found = engine.conversations(filters.get("user"), before=position_of(before) if before else None, limit=limit + 1)
    more, found = len(found) > limit, found[:limit]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        lines = list(threads.map(lambda summary: _line(summary, _newest(engine, summary)), found))
    last = found[-1] if more else None
    return lines, cursor_of((last.updated_at, last.principal, last.continuation_id)) if last else None


def _newest(engine: Engine, summary: ConversationSummary) -> Turn | None:
    try:
        found = engine.turns(summary.principal, summary.continuation_id, after=summary.turns - 1, limit=1)
    except StoreError:
        return None  # Its page says why.
    return found[0] if found else None


def _line(summary: ConversationSummary, newest: Turn | None) -> Line:
    line = Line(
        principal=summary.principal,
        continuation_id=summary.continuation_id,
        at=summary.updated_at,
        turns=summary.turns,
    )
    if newest is None:
        return line
    return replace(line, place=newest.place, prompt=newest.prompt[:_LONGEST], tool=newest.tool, outcome=newest.outcome)


def _with_turns_of(engine: Engine, question: Question, before: str | None, limit: int) -> tuple[list[Line], str | None]:
    """Each conversation once, where the newest turn stands that `question` finds in it."""
    start = hit_position_of(before) if before else None
    lines: dict[tuple[str, str], Line] = {}
    passed: set[tuple[str, str]] = set()
    position = start
    for _ in range(_MOST_HITS // _HITS_AT_ONCE):
        hits = engine.store.search(question, before=position, limit=_HITS_AT_ONCE)
        for hit in hits:
            conversation = hit.principal, hit.continuation_id
            if conversation not in lines and conversation not in passed:
                if start is not None and _was_seen(engine, question, hit, start):
                    passed.add(conversation)  # It stands on an earlier page.
                elif len(lines) == limit:
                    return list(lines.values()), cursor_of(position) if position else None
                else:
                    lines[conversation] = _line_of(hit)
            position = hit.position
        if len(hits) < _HITS_AT_ONCE:
            return list(lines.values()), None
    return list(lines.values()), cursor_of(position) if position else None


def _was_seen(engine: Engine, question: Question, hit: Hit, start: HitPosition) -> bool:
    """Whether the conversation of `hit` stood on an earlier page than the one that begins after `start`."""
    there = replace(question, principal=hit.principal, continuation_id=hit.continuation_id)
    return any(newest.position >= start for newest in engine.store.search(there, limit=1))


def _line_of(hit: Hit) -> Line:
    return Line(
        principal=hit.principal,
        continuation_id=hit.continuation_id,
        at=hit.created_at,
        place=hit.place,
        prompt=hit.excerpt.text,
        tool=hit.tool,
        outcome=hit.outcome,
    )
