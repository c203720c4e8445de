"""What each page shows. Every function reads a bounded number of rows, however much is kept."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from perdure.cursors import cursor_of, hit_position_of
from perdure.errors import PerdureError, QuestionError
from perdure.middleware.persistence.question import question_of
from perdure.middleware.persistence.turn import ConversationSummary, Turn
from perdure.middleware.persistence.wiring import Runtime
from perdure.viewer.conversation_lines import lines_of
from perdure.viewer.headers import SANDBOXED
from perdure.viewer.rendering import Rendering
from perdure.viewer.turn_view import files_of, readable, view_of

__all__ = ["Nothing", "Pages"]

_CONVERSATIONS, _TURNS, _HITS = 25, 25, 25
"""On a page."""

_LONGEST_ON_A_PAGE_OF_TURNS = 2_500
"""Characters of a prompt or an answer among others; its own page has more."""

_LONGEST_ON_ITS_OWN = 200_000


class Nothing(PerdureError):
    """What the address names is not there."""

    code = "not_found"


class Pages:
    def __init__(self, runtime: Runtime, rendering: Rendering) -> None:
        self._runtime = runtime
        self._engine = runtime.engine
        self._rendering = rendering
        self._links = rendering.links

    def conversations(self, request: Request) -> Response:
        asked = request.query_params
        filters = {name: asked.get(name, "").strip() or None for name in ("user", "tool", "outcome")}
        try:
            lines, following = lines_of(self._engine, filters, asked.get("before"), limit=_CONVERSATIONS)
        except QuestionError as error:
            return self._page(request, "conversations.html", HTTPStatus.BAD_REQUEST, filters=filters, problem=error)
        older = self._links.conversations(**filters, before=following) if following else None
        is_first = asked.get("before") is None
        return self._page(request, "conversations.html", filters=filters, lines=lines, older=older, is_first=is_first)

    def conversation(self, request: Request) -> Response:
        summary = self._conversation(request)
        start = min(_number(request, "start") or max(summary.turns - _TURNS + 1, 1), max(summary.turns, 1))
        turns = self._engine.turns(summary.principal, summary.continuation_id, after=start - 1, limit=_TURNS)
        files = files_of(self._engine, summary, turns)
        views = [
            view_of(turn, summary, files.get(turn.id, ()), self._links, longest=_LONGEST_ON_A_PAGE_OF_TURNS)
            for turn in turns
        ]
        last = views[-1].place if views else start
        return self._page(
            request,
            "conversation.html",
            conversation=summary,
            turns=views,
            first_place=start,
            last_place=last,
            earlier=self._at(summary, max(start - _TURNS, 1)) if start > 1 else None,
            later=self._at(summary, last + 1) if last < summary.turns else None,
        )

    def turn(self, request: Request) -> Response:
        summary = self._conversation(request)
        turn = self._turn(request, summary)
        files = files_of(self._engine, summary, [turn])
        is_plain = "plain" in request.query_params
        view = view_of(
            turn,
            summary,
            files.get(turn.id, ()),
            self._links,
            longest=_LONGEST_ON_ITS_OWN,
            is_plain=is_plain,
            is_alone=True,
        )
        return self._page(
            request,
            "turn.html",
            conversation=summary,
            turn=view,
            is_plain=is_plain,
            earlier=self._links.turn(*_named(summary), view.place - 1) if view.place > 1 else None,
            later=self._links.turn(*_named(summary), view.place + 1) if view.place < summary.turns else None,
        )

    def search(self, request: Request) -> Response:
        text = request.query_params.get("q", "")
        before = request.query_params.get("before")
        if not text.strip():
            return self._page(request, "search.html", question="", hits=None)
        try:
            question = question_of(text, self._engine.clock.now())
        except QuestionError as error:
            return self._page(request, "search.html", HTTPStatus.BAD_REQUEST, question=text, hits=None, problem=error)
        position = hit_position_of(before) if before else None
        hits = self._engine.store.search(question, before=position, limit=_HITS + 1)
        more = len(hits) > _HITS
        hits = hits[:_HITS]
        older = self._links.search(text, cursor_of(hits[-1].position)) if more else None
        return self._page(request, "search.html", question=text, hits=hits, older=older, is_first=before is None)

    def text(self, request: Request) -> Response:
        """A part of a turn, whole, to be saved: of what a page can only show the beginning."""
        turn = self._turn(request, self._conversation(request))
        answer = turn.answer
        match request.query_params.get("part"):
            case "prompt":
                return _saved(turn, "prompt.txt", turn.prompt)
            case "answer" if answer is not None:
                return _saved(turn, "answer.txt", answer.text)
            case "arguments":
                return _saved(turn, "arguments.json", readable(turn.arguments, ensure_ascii=True))
            case "result" if answer is not None:
                return _saved(turn, "result.json", readable(answer.result, ensure_ascii=True))
            case _:
                raise Nothing("The turn has no such part.", remedy="go back to the turn, and choose one of its links.")

    def _conversation(self, request: Request) -> ConversationSummary:
        user, continuation_id = request.query_params.get("user", ""), request.query_params.get("id", "")
        found = self._engine.conversations(user, continuation_id, limit=1)
        if not found:
            raise Nothing(
                f"The user {user!r} has no conversation {continuation_id!r}.",
                remedy="look for it among all conversations: it may have been deleted, or have expired.",
            )
        return found[0]

    def _turn(self, request: Request, summary: ConversationSummary) -> Turn:
        place = _number(request, "place") or 0
        found = self._engine.turns(*_named(summary), after=place - 1, limit=1) if place else []
        if not found or found[0].place != place:
            raise Nothing(
                f"The conversation {summary.continuation_id!r} has no turn {place:,}.",
                remedy=f"go back to the conversation: it has {summary.turns:,}.",
            )
        return found[0]

    def _at(self, summary: ConversationSummary, start: int) -> str:
        return self._links.conversation(*_named(summary), start)

    def _page(self, request: Request, template: str, status: HTTPStatus = HTTPStatus.OK, **shown: object) -> Response:
        return self._rendering.page(request, template, status, **{"problem": None, **shown})


def _named(summary: ConversationSummary) -> tuple[str, str]:
    return summary.principal, summary.continuation_id


def _number(request: Request, name: str) -> int | None:
    """A place: 1, 2, 3 …; None for anything else that somebody wrote."""
    text = request.query_params.get(name, "")
    return max(int(text), 1) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _saved(turn: Turn, name: str, text: str) -> Response:
    return Response(
        text.encode("utf-8", "replace"),
        media_type="text/plain",
        headers={
            "content-disposition": f'attachment; filename="turn-{turn.place}-{name}"',
            "content-security-policy": SANDBOXED,
        },
    )
