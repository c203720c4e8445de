"""`perdure conversations search`: what was said, by its words."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

from rich.text import Text

from perdure.cli.terminal import OUTCOME_COLOURS, ago, console, printable, write_json
from perdure.cursors import cursor_of, hit_position_of
from perdure.errors import SearchNotReady
from perdure.middleware.persistence.question import question_of
from perdure.middleware.persistence.turn import JsonObject
from perdure.middleware.persistence.upkeep import Hit
from perdure.middleware.persistence.wiring import Runtime

__all__ = ["search"]

_PARTS = ("prompt", "answer")
_SPACE = re.compile(r"[ \t\n]+")


def search(
    runtime: Runtime,
    words: Sequence[str],
    filters: Mapping[str, str | None],
    *,
    limit: int,
    before: str | None,
    as_json: bool,
) -> bool:
    """Whether anything was found.

    Raises:
        PerdureError: The question cannot be understood, or the store is away.
    """
    now = runtime.engine.clock.now()
    question = question_of(" ".join(words), now, filters)
    position = hit_position_of(before) if before else None
    hits = _made_ready(partial(runtime.engine.store.search, question, before=position, limit=limit + 1))
    hits, more = hits[:limit], len(hits) > limit
    following = cursor_of(hits[-1].position) if more else None
    if as_json:
        write_json({"hits": [_as_json(hit) for hit in hits], "next": following})
        return bool(hits)
    if not hits:
        console().print("Nothing found." if before is None else "Nothing more found.")
    lines = [line for hit in hits for line in _lines(hit, now, with_user=question.principal is None)]
    if following is not None:
        lines.append(Text(f"There are more: --before {following}", style="dim"))
    if lines:
        console().print(Text("\n").join(lines), soft_wrap=True)  # at once: rich takes a while for each print
    return bool(hits)


def _made_ready(find: Callable[[], list[Hit]]) -> list[Hit]:
    """What is found, however long a large database has to be made ready for its first search."""
    try:
        return find()
    except SearchNotReady:
        with console().status("Making the messages ready for their first search …"):
            while True:
                with suppress(SearchNotReady):
                    return find()


def _lines(hit: Hit, now: datetime, *, with_user: bool) -> Iterator[Text]:
    line = Text.assemble((printable(hit.continuation_id).plain, "bold cyan"), f"  #{hit.place} {_PARTS[hit.part]}  ")
    line.append(f"{printable(hit.tool)}  ").append(hit.outcome.value, style=OUTCOME_COLOURS[hit.outcome])
    line.append(f"  {ago(hit.created_at, now)}")
    if with_user:
        line.append(f"  {printable(hit.principal)}", style="dim")
    yield line
    for piece in _highlighted(hit).wrap(console(), console().width - 2):
        yield Text("  ").append_text(piece)
    yield Text("")


def _highlighted(hit: Hit) -> Text:
    """The words that were found in colour, or in guillemets where there are no colours."""
    text, at = Text(), 0
    opening, closing = ("", "") if console().color_system else ("«", "»")
    for first, last in hit.excerpt.marks:
        text.append_text(_on_one_line(hit.excerpt.text[at:first]))
        text.append(f"{opening}{_on_one_line(hit.excerpt.text[first:last])}{closing}", style="bold yellow")
        at = last
    return text.append_text(_on_one_line(hit.excerpt.text[at:]))


def _on_one_line(text: str) -> Text:
    return printable(_SPACE.sub(" ", text))


def _as_json(hit: Hit) -> JsonObject:
    return {
        "continuation_id": hit.continuation_id,
        "user": hit.principal,
        "turn_id": hit.turn_id,
        "place": hit.place,
        "part": _PARTS[hit.part],
        "tool": hit.tool,
        "outcome": hit.outcome.value,
        "created_at": hit.created_at.isoformat(),
        "excerpt": hit.excerpt.text,
        "highlights": [list(mark) for mark in hit.excerpt.marks],
    }
