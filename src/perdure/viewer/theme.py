"""Light, dark, or as the system has it: the page's only setting, which the browser keeps in a cookie."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

__all__ = ["THEMES", "choose_theme", "theme_of"]

THEMES = ("auto", "light", "dark")

_COOKIE = "perdure-theme"
_A_YEAR = 365 * 86_400


def theme_of(request: Request) -> str:
    chosen = request.cookies.get(_COOKIE, "")
    return chosen if chosen in THEMES else "auto"


def choose_theme(request: Request, base: str) -> Response:
    """Back to where the choice was made, which is a page of ours and nowhere else."""
    name, back = request.query_params.get("name", ""), request.query_params.get("back", "")
    response = RedirectResponse(back if back.startswith(f"{base}/") else f"{base}/", HTTPStatus.SEE_OTHER)
    if name in THEMES:
        # For all paths, since that of the pages is another at each start. It tells nothing.
        response.set_cookie(_COOKIE, name, max_age=_A_YEAR, path="/", httponly=True, samesite="strict")
    return response
