"""Makes pages of templates. Whatever a template prints is escaped, and shown without what cannot be seen or acts."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from perdure.middleware.persistence.excerpts import Excerpt
from perdure.middleware.persistence.ports import Clock
from perdure.middleware.persistence.turn import Outcome
from perdure.readable import ago, count, printable_text, took
from perdure.viewer.links import Links
from perdure.viewer.theme import THEMES, theme_of

__all__ = ["Problem", "Rendering"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no other page, and what to do."""

    status: HTTPStatus
    what: str
    remedy: str


class Rendering:
    def __init__(self, links: Links, clock: Clock, where: str) -> None:
        """`where`: what is read, in a few words."""
        self.links = links
        self._clock = clock
        self._templates = Environment(
            loader=PackageLoader("perdure.viewer"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._templates.filters.update(local=_local, number=lambda value: f"{value:,}", size=_size, segments=_segments)
        self._templates.globals.update(
            links=links, count=count, took=took, where=where, outcomes=list(Outcome), themes=THEMES
        )

    def page(self, request: Request, template: str, status: HTTPStatus = HTTPStatus.OK, **shown: Any) -> HTMLResponse:
        now = self._clock.now()
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        html = self._templates.get_template(template).render(
            {"question": "", "is_inside": True, **shown},
            ago=lambda at: ago(at, now),
            here=here,
            theme=theme_of(request),
        )
        return HTMLResponse(html, status)

    def problem(self, request: Request, problem: Problem, *, is_inside: bool = True) -> HTMLResponse:
        """`is_inside`: whether whoever asks may be shown links to the rest."""
        return self.page(request, "problem.html", problem.status, problem=problem, is_inside=is_inside)


def _shown(value: Any) -> Any:
    return printable_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _segments(excerpt: Excerpt) -> Iterator[tuple[str, bool]]:
    """The text in pieces, and whether each is one of the words that were found."""
    at = 0
    for first, last in excerpt.marks:
        yield excerpt.text[at:first], False
        yield excerpt.text[first:last], True
        at = last
    yield excerpt.text[at:], False


def _local(at: datetime) -> str:
    """In the time zone of this machine, as the command line has it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _size(size: int) -> str:
    """As `rich.filesize.decimal`: `1.5 MB`."""
    value, units = float(size), iter(("kB", "MB", "GB", "TB"))
    if size < 1000:
        return count(size, "byte")
    unit = ""
    while value >= 1000:
        value, unit = value / 1000, next(units, unit)
    return f"{value:,.1f} {unit}"
