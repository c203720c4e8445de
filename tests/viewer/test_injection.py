"""Whatever tools, models and clients wrote is text: nothing of it runs, loads or leads anywhere it should not."""

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page
from viewer.driving import Viewer, a_viewer, entered
from viewer.kept import Kept

from perdure.middleware.persistence.turn import Outcome

RUN = "window.ran = (window.ran || 0) + 1"
TAGS = f"""<script>{RUN}</script><img src=x onerror="{RUN}"><svg onload="{RUN}">
<iframe srcdoc="<script>parent.ran=1</script>"></textarea></title></pre></code><style>*{{display:none}}</style>
<base href="http://evil.example/"><meta http-equiv=refresh content="0;url=http://evil.example/">"""
LINKS = f"""[a](javascript:{RUN.replace(" ", "%20")}) [b](JaVaScRiPt:ran=1) [c](data:text/html,<script>{RUN}</script>)
[d](vbscript:x) [e](file:///etc/passwd) [f](//evil.example/x) [g](/static/viewer.js) [h](\x01javascript:ran=1)
[i](&#106;avascript:ran=1) [j][ref] <javascript:ran=1> ![k](http://evil.example/pixel.png) ![l](javascript:ran=1)
[m](https://good.example/"onmouseover="{RUN}) [n](https://good.example 'x" onclick="{RUN}') ![o](storage://mcp-files/a/b/c)
``` "onclick="{RUN}
code </code></pre>{TAGS}
```

[ref]: javascript:ran=1
"""
TEMPLATE = "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7}"
NASTY = f"{TAGS}\n\n{LINKS}\n\n{TEMPLATE}\n\nab\u202ecd \u0000\u001b[31m \u2028"
FILE_NAME = f"\"><img src=x onerror='{RUN}'>\r\nX-Evil: 1\u202e../../../etc/passwd.html"
USER, CONVERSATION, TOOL = (
    f"u'\"><script>{RUN}</script>&x=1#/..",
    f"c\"'><script>{RUN}</script>&a=/../?#%2f",
    f"t<script>{RUN}</script>",
)
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{RUN}"><script>{RUN}</script></svg>'.encode()
HTML = f"<!doctype html><script>{RUN}</script>".encode()

ACTIVE = (
    "script, style, iframe, svg, base, meta, object, form[action*=evil], [onerror], [onload], [onclick], [onmouseover]"
)


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("kept")
    kept = Kept(folder)
    files = (
        kept.file(FILE_NAME, HTML, "text/html", user=USER),
        kept.file("drawing.svg", SVG, "image/svg+xml", user=USER),
        kept.file("liar.png", HTML + b" ", "image/png", user=USER),
        kept.file("sharp.gif", SVG + b" ", "image/gif\r\nX-Evil: 1", user=USER),
    )
    where = {"conversation": CONVERSATION, "user": USER, "tool": TOOL}
    kept.turn(NASTY, NASTY, files=files, **where)
    kept.turn(NASTY, "", outcome=Outcome.FAILED, error={"type": TAGS, "message": NASTY}, **where)
    kept.turn("deep", ">" * 60 + "bottom", **where)
    kept.close()
    with a_viewer(folder) as viewer:
        yield viewer


@pytest.fixture
def page(browser: Browser, viewer: Viewer) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        """window.violations = [];
        addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));"""
    )
    yield entered(page, viewer)
    context.close()


def pages(viewer: Viewer) -> list[str]:
    where: dict[str, str | int] = {"user": USER, "id": CONVERSATION}
    return [
        viewer.page(),
        viewer.page("", user=USER, tool=TOOL, outcome="answered"),
        viewer.page("", user=TAGS, tool=NASTY.replace("\0", "")),
        viewer.page("", before=TAGS),
        viewer.page("", outcome=TAGS),
        viewer.page("conversation", **where),
        viewer.page("conversation", user=TAGS, id=TAGS),
        viewer.page("turn", **where, place=1),
        viewer.page("turn", **where, place=1, plain=1),
        viewer.page("turn", **where, place=2),
        viewer.page("turn", **where, place=99),
        viewer.page("search", q="code or deep"),
        viewer.page("search", q=TAGS),
        viewer.page("search", q=f'"{TAGS}'),
        viewer.page("search", q="code", before=TAGS),
        viewer.page("file", user=TAGS, uri=TAGS),
        viewer.page(TAGS.replace("/", "_").replace("\n", "")),
        f"{viewer.base}?{urlencode({'token': TAGS})}",
    ]


def test_nothing_that_was_written_runs_and_no_page_breaks_its_own_policy(page: Page, viewer: Viewer) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    for address in pages(viewer):
        page.goto(address)
        for details in page.locator("details").all():
            details.locator("summary").click()
        assert page.evaluate("[window.ran, violations]") == [None, []], address
        assert page.locator("main").is_visible(), address
        assert page.locator(f"main :is({ACTIVE})").count() == 0, address
        assert page.evaluate("new URL(document.baseURI).origin") == viewer.origin
    assert [text for text in said if "status of 4" not in text] == []
    assert {url for url in asked if not url.startswith(viewer.origin)} == set()


def test_links_lead_outside_or_to_a_kept_file_and_nowhere_else(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.page("turn", user=USER, id=CONVERSATION, place=1))
    links = page.locator(".markdown a").evaluate_all("all => all.map((a) => [a.getAttribute('href'), a.rel, a.target])")
    outside = ["noopener noreferrer nofollow", "_blank"]
    assert [link for link in links if link[1:] != outside] == []
    assert {link[0].split("/")[2] for link in links} == {"good.example"}
    path = "/" + viewer.base.split("/", 3)[3]
    assert page.locator(".markdown img").evaluate_all("all => all.map((i) => i.getAttribute('src'))") == [
        f"{path}file?{urlencode({'user': USER, 'uri': 'storage://mcp-files/a/b/c'})}"
    ]


def test_what_cannot_be_seen_or_turns_the_text_around_is_shown_as_such(page: Page, viewer: Viewer) -> None:
    for address in pages(viewer):
        assert not set(page.request.get(address).text()) & set("\0\x1b\u202e\u2028"), address


def test_what_markdown_would_leave_out_is_shown_as_it_was_written(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.page("turn", user=USER, id=CONVERSATION, place=3))
    assert page.locator(".answer .plain").inner_text() == ">" * 60 + "bottom"


def test_files_are_pictures_of_a_safe_kind_or_are_saved(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.page("turn", user=USER, id=CONVERSATION, place=1))
    shown = page.locator(".picture img").evaluate_all("all => all.map((i) => i.alt)")
    assert shown == ["liar.png"]
    for link in page.locator(".file, .picture").all():
        answer = page.request.get(f"{viewer.origin}{link.get_attribute('href')}")
        headers = answer.headers
        assert answer.status == 200
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'; sandbox"
        assert headers["x-content-type-options"] == "nosniff"
        assert "x-evil" not in headers
        inline = link.get_attribute("class") == "picture"
        assert headers["content-type"] == ("image/png" if inline else "application/octet-stream")
        assert headers["content-disposition"].startswith("inline; " if inline else "attachment; ")
    page.locator(".picture").click()  # HTML that says it is a picture
    page.wait_for_load_state()
    assert page.evaluate("window.ran") is None


def test_a_name_of_a_file_is_one_name_and_no_path(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.page("turn", user=USER, id=CONVERSATION, place=1))
    with page.expect_download() as download:
        page.get_by_role("link", name="passwd.html").click()
    name = download.value.suggested_filename
    assert name.endswith("passwd.html")
    assert not set(name) & set("/\\\r\n\u202e")
    assert page.evaluate("[window.ran, violations]") == [None, []]


def test_a_theme_leads_back_to_a_page_of_ours_only(page: Page, viewer: Viewer) -> None:
    for back in ("http://evil.example/", "//evil.example/", "/\\evil.example", "javascript:ran=1", "/elsewhere"):
        page.goto(viewer.page("theme", name="dark", back=back))
        assert page.url == viewer.base
