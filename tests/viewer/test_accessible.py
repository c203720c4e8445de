"""axe finds nothing on any page, light or dark."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from viewer.driving import Viewer, a_viewer
from viewer.kept import kept_to_look_at

AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("kept")
    kept = kept_to_look_at(folder)
    for number in range(1, 31):
        kept.turn(f"question {number}", "# A heading\n\n## Another\n\n[a link](https://e.example)", conversation="long")
    kept.close()
    with a_viewer(folder) as viewer:
        yield viewer


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    with a_viewer(tmp_path_factory.mktemp("nothing")) as viewer:
        yield viewer


def test_axe_finds_no_violation_on_any_page_light_or_dark(browser: Browser, viewer: Viewer, empty: Viewer) -> None:
    assert AXE.exists(), f"not installed: make {Path(sys.prefix).name}/axe.stamp"
    context = browser.new_context(color_scheme="light", reduced_motion="reduce", bypass_csp=True)
    context.add_init_script(path=AXE)
    page = context.new_page()
    for address in (
        viewer.address,
        viewer.page("", outcome="failed"),
        viewer.page("", tool="nobody"),
        viewer.page("", outcome="nonsense"),
        viewer.page("conversation", user="local", id="lisbon-trip"),
        viewer.page("conversation", user="local", id="sales-review"),
        viewer.page("conversation", user="ops", id="nightly-import"),
        viewer.page("conversation", user="local", id="long"),
        viewer.page("turn", user="local", id="sales-review", place=1),
        viewer.page("turn", user="local", id="lisbon-trip", place=2, plain=1),
        viewer.page("turn", user="ops", id="dead-links", place=1),
        viewer.page("search"),
        viewer.page("search", q="hotel or import"),
        viewer.page("search", q='"open'),
        viewer.page("search", q="nowhere"),
        viewer.page("nothing"),
        f"{viewer.origin}/",
        empty.address,
    ):
        page.goto(address)
        for details in page.locator("details").all():
            details.locator("summary").click()
        if page.locator("#show-keys").is_visible() and address == viewer.address:
            assert found(page) == [], "before the keys are shown"
            page.keyboard.press("?")
        assert found(page) == [], address
        page.emulate_media(color_scheme="dark")
        assert found(page, "color-contrast", "link-in-text-block") == [], (
            f"{address}, dark"
        )  # no other rule sees colours
        page.emulate_media(color_scheme="light")
    context.close()


def found(page: Page, *rules: str) -> list[list[str]]:
    """Those of `rules`, else of all, that are broken, each with where."""
    return page.evaluate(
        """(rules) => axe.run(rules.length ? {runOnly: rules} : {}).then((all) => all.violations.map(
            (one) => [one.id, ...one.nodes.map((node) => node.html.slice(0, 120))]))""",
        list(rules),
    )
