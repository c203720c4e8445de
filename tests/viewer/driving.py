"""`perdure ui` as a process of its own, and Debian's Chromium before it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, expect, sync_playwright

__all__ = ["CHROMIUM", "Viewer", "a_browser", "a_viewer", "entered"]

CHROMIUM = Path(sys.prefix) / "chromium" / "chromium"


expect.set_options(timeout=20_000)  # milliseconds: the machine may have much else to do


class Viewer:
    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self.process = process
        self.address = address
        """As it is printed, with its token."""
        self.base = address.partition("?")[0]
        self.origin = "/".join(address.split("/")[:3])

    def page(self, name: str = "", /, **query: str | int) -> str:
        return f"{self.base}{name}" + (f"?{urlencode(query)}" if query else "")


@contextmanager
def a_viewer(folder: Path, *arguments: str, **environment: str) -> Iterator[Viewer]:
    """Over what `folder` has, or over what `environment` says."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from perdure.cli import main; main()", "ui", "--port", "0", *arguments],
        env=_environment(folder, environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        restore_signals=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("perdure ui: http://"), line + process.stderr.read()
        yield Viewer(process, line.removeprefix("perdure ui: ").strip())
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "SUPABASE_"))}
    return own | {"PERDURE_DATA_DIR": str(folder), "PERDURE_CONFIG": os.devnull, "PYTHONUNBUFFERED": "1"} | more


@contextmanager
def a_browser() -> Iterator[Browser]:
    assert CHROMIUM.exists(), f"not installed: make {Path(sys.prefix).name}/chromium.stamp"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM.resolve() if CHROMIUM.is_symlink() else CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        try:
            yield browser
        finally:
            browser.close()


def entered(page: Page, viewer: Viewer) -> Page:
    page.goto(viewer.address)
    assert page.url == viewer.base
    return page
