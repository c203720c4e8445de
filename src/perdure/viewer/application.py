"""Which path shows what, and what stands before it."""

import os
from collections.abc import Collection
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from perdure.errors import FileMissing, PerdureError, StoreError
from perdure.middleware.persistence.wiring import Runtime
from perdure.viewer.access import STATIC, Credentials, Guard
from perdure.viewer.headers import ProtectiveHeaders
from perdure.viewer.kept_files import file_response
from perdure.viewer.links import Links
from perdure.viewer.pages import Nothing, Pages
from perdure.viewer.rendering import Problem, Rendering
from perdure.viewer.theme import choose_theme

__all__ = ["application"]


def application(runtime: Runtime, credentials: Credentials, hosts: Collection[str]) -> ASGIApp:
    """`hosts`: the names and ports under which it is served."""
    rendering = Rendering(Links(credentials.base), runtime.engine.clock, _place_of(runtime))
    pages = Pages(runtime, rendering)
    faults = _Faults(rendering)
    inside = [  # None of these is a coroutine: stores block, so each request has a thread.
        Route("/", pages.conversations),
        Route("/conversation", pages.conversation),
        Route("/turn", pages.turn),
        Route("/text", pages.text),
        Route("/search", pages.search),
        Route("/file", lambda request: file_response(runtime, request)),
        Route("/theme", lambda request: choose_theme(request, credentials.base)),
    ]
    app = Starlette(
        routes=[
            Mount(STATIC, StaticFiles(directory=Path(__file__).with_name("static"))),
            Mount(credentials.base, routes=inside),
        ],
        exception_handlers={
            PerdureError: faults.known,
            HTTPException: faults.no_such_page,
            Exception: faults.unknown,
        },
    )
    return ProtectiveHeaders(Guard(app, credentials, hosts, rendering))


def _place_of(runtime: Runtime) -> str:
    """What is read: an address of a database would hold a password, so of those only the kind is told."""
    match runtime.settings.backend:
        case "sqlite" | "memory":
            folder, home = runtime.own_folder, os.path.expanduser("~")  # noqa: PTH111 - Path.home() may raise
            return f"SQLite in {Path('~', folder.relative_to(home)) if folder.is_relative_to(home) else folder}"
        case "postgres":
            return "Postgres"
        case "supabase":
            return f"Supabase at {runtime.settings.supabase_url}"
        case factory:
            return factory


class _Faults:
    def __init__(self, rendering: Rendering) -> None:
        self._rendering = rendering

    def known(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, PerdureError)  # noqa: S101 - registered for no other
        match error:
            case Nothing() | FileMissing():
                status = HTTPStatus.NOT_FOUND
            case StoreError():
                status = HTTPStatus.SERVICE_UNAVAILABLE
            case _:
                status = HTTPStatus.BAD_REQUEST
        return self._problem(request, Problem(status, error.what, error.remedy))

    def no_such_page(self, request: Request, error: Exception) -> Response:
        del error
        problem = Problem(HTTPStatus.NOT_FOUND, "There is no such page.", "go to the conversations.")
        return self._problem(request, problem)

    def unknown(self, request: Request, error: Exception) -> Response:
        """A mistake of ours. Its trace is printed in the terminal."""
        problem = Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            f"This page cannot be shown ({type(error).__name__}): a mistake in perdure. What is kept is not harmed.",
            "report it, with what stands in the terminal.",
        )
        return self._problem(request, problem)

    def _problem(self, request: Request, problem: Problem) -> Response:
        # Whoever asks there may have shown no token: a link would tell them the path that the cookie is bound to.
        is_inside = not request.url.path.startswith(STATIC)
        return self._rendering.problem(request, problem, is_inside=is_inside)
