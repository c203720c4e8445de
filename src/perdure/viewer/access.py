"""Who may look: the person to whom this process printed its address, in a browser of theirs, and no other page in it.

A server on the loopback is reached by more than that: by every page in the browser, by other users of the machine,
and by whoever makes a name of theirs resolve to 127.0.0.1. See docs/decisions/0016-viewer.md.
"""

import asyncio
import hmac
import secrets
import threading
from collections.abc import Collection
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.viewer.rendering import Problem, Rendering

__all__ = ["Credentials", "Guard"]

_COOKIE = "perdure"

STATIC = "/static/"
"""The path of what is the same for everybody: style sheet, script, icon."""


class Credentials:
    """What this run of the viewer asks for. Nothing of it is ever written anywhere."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        """In the address that is printed; good for as long as this process runs."""
        self.base = f"/{secrets.token_urlsafe(9)}"
        """Cookies do not know ports: any other server on this machine that the browser visits would be sent ours. So it
        is bound to a path that nobody else knows."""
        self._session = secrets.token_urlsafe(32)
        self.ticket = secrets.token_urlsafe(32)
        """Good once: for a browser's command line, which all users of the machine can see. So it is shown outside of
        `base`, which stays unknown to them."""
        self._is_used = False
        self._lock = threading.Lock()

    def admits(self, token: str) -> bool:
        return _is_same(token, self.token)

    def is_ticket(self, token: str) -> bool:
        return _is_same(token, self.ticket)

    def use_ticket(self) -> bool:
        """Whether it was still good."""
        with self._lock:
            was_used, self._is_used = self._is_used, True
        return not was_used

    def knows(self, cookie: str) -> bool:
        return _is_same(cookie, self._session)

    def welcome(self, path: str) -> Response:
        """To the page without the token, which is then neither in the address bar nor in the history."""
        response = RedirectResponse(path, HTTPStatus.SEE_OTHER)
        response.set_cookie(_COOKIE, self._session, path=self.base, httponly=True, samesite="strict")
        return response


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _sent(request: Request) -> list[str]:
    """The values of all cookies of our name: another server on this machine can set one too, for all paths."""
    pairs = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
    return [value for name, _, value in pairs if name == _COOKIE]


class Guard:
    """Before everything else: what it does not let through, no page and no store hears of."""

    def __init__(self, app: ASGIApp, credentials: Credentials, hosts: Collection[str], rendering: Rendering) -> None:
        """`hosts`: the names and ports under which this server is known, as in the header `Host`."""
        self._app = app
        self._credentials = credentials
        self._hosts = frozenset(hosts)
        self._rendering = rendering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # No web sockets here: uvicorn answers one that nobody accepts with 403.
        request, has_begun = Request(scope), False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._answer(request)(scope, receive, watched)
        except asyncio.CancelledError:  # Ctrl-C, and a store that takes longer than uvicorn waits.
            if has_begun:
                raise
            await self._rendering.problem(request, _ENDED, is_inside=False)(scope, receive, send)

    def _answer(self, request: Request) -> ASGIApp:
        refusal = self._not_a_reader(request) or self._from_elsewhere(request)
        if refusal is not None:
            return self._rendering.problem(request, refusal, is_inside=False)
        if request.url.path.startswith(STATIC):
            return self._app
        token = request.query_params.get("token")
        if request.url.path == "/" and token is not None and self._credentials.is_ticket(token):
            if self._credentials.use_ticket():
                return self._credentials.welcome(self._credentials.base + "/")
            return self._rendering.problem(request, _USED, is_inside=False)
        if self._is_inside(request):
            if token is not None and self._credentials.admits(token):
                return self._credentials.welcome(request.url.path)
            if token is None and any(map(self._credentials.knows, _sent(request))):
                return self._app
        return self._rendering.problem(request, _NOT_KNOWN, is_inside=False)

    def _is_inside(self, request: Request) -> bool:
        return request.url.path.startswith(self._credentials.base + "/")

    def _not_a_reader(self, request: Request) -> Problem | None:
        if request.method in ("GET", "HEAD"):
            return None
        return Problem(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{request.method} is not answered here: this page only shows what is kept.",
            "use the command line to change anything.",
        )

    def _from_elsewhere(self, request: Request) -> Problem | None:
        """A name that was made to lead here (DNS rebinding), or a request that another page has the browser make."""
        if request.headers.get("host") not in self._hosts:
            return _WRONG_HOST
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return _OTHER_SITE
        origin = request.headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            return _OTHER_SITE
        return None


_NOT_KNOWN = Problem(
    HTTPStatus.UNAUTHORIZED,
    "This browser has not shown the token.",
    "open the address that `perdure ui` printed in the terminal, whole, with its token. Each start has a new one.",
)
_USED = Problem(
    HTTPStatus.UNAUTHORIZED,
    "This address was good once, and somebody has used it.",
    "open the one that `perdure ui` printed in the terminal. If it was not your browser that used this one, another "
    "user of this machine has seen what is kept: end `perdure ui`, and start it without --open.",
)
_WRONG_HOST = Problem(
    HTTPStatus.MISDIRECTED_REQUEST,
    "This viewer was asked for under a name that is not its own.",
    "open the address that `perdure ui` printed in the terminal. To see it from another machine, forward the port: "
    "`ssh -L PORT:127.0.0.1:PORT`.",
)
_ENDED = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The viewer was ended before this page was ready.",
    "start `perdure ui` again, and open the address that it prints then.",
)
_OTHER_SITE = Problem(
    HTTPStatus.FORBIDDEN,
    "Another site's page has sent the browser here.",
    "if that was you, following a link: copy the address that `perdure ui` printed into the address bar.",
)
