"""Makes the pictures in docs/images: `make screenshots`."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser
from viewer.driving import Viewer, a_browser, a_viewer
from viewer.kept import kept_to_look_at

_LARGEST = 150_000
"""Bytes of a picture: they are in the repository."""

_DESKTOP, _PHONE = {"width": 1120, "height": 760}, {"width": 390, "height": 760}


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "perdure")
        kept_to_look_at(data).close()
        with a_viewer(data, HOME=folder) as viewer, a_browser() as browser:
            sales = viewer.page("turn", user="local", id="sales-review", place=1)
            for name, address, size, scheme in (
                ("viewer-conversations", viewer.page(), _DESKTOP, "light"),
                ("viewer-turn", sales, _DESKTOP, "light"),
                ("viewer-search", viewer.page("search", q='"table for two" or hotel'), _DESKTOP, "light"),
                ("viewer-dark", viewer.page("conversation", user="local", id="review-ids"), _DESKTOP, "dark"),
                ("viewer-phone", viewer.page(), _PHONE, "light"),
            ):
                _take(browser, viewer, address, target / f"{name}.png", size=size, scheme=scheme)


def _take(browser: Browser, viewer: Viewer, address: str, picture: Path, *, size: dict[str, int], scheme: str) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(viewer.address)
    page.goto(address)
    page.screenshot(path=picture)
    context.close()
    taken = picture.stat().st_size
    print(f"{picture}: {taken:,} bytes")
    assert taken <= _LARGEST, f"{picture} has {taken:,} bytes; at most {_LARGEST:,} are kept in the repository"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
