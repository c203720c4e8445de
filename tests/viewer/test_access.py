"""Only the person to whom the address was printed sees the page, and no other page in their browser does."""

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from viewer.driving import Viewer, a_viewer, entered
from viewer.kept import Kept, picture

SECRET = "the gate code is 4711"
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cache-control": "no-store",
}


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("kept")
    kept = Kept(folder)
    kept.turn(SECRET, conversation="secret", files=(kept.file("plan.png", picture(), "image/png"),))
    kept.close()
    with a_viewer(folder) as viewer:
        yield viewer


@pytest.fixture
def known(viewer: Viewer) -> Iterator[httpx.Client]:
    """Whoever has the cookie."""
    with httpx.Client() as client:
        welcomed = client.get(viewer.address)
        assert welcomed.status_code == 303
        assert welcomed.headers["location"] == "/" + viewer.base.split("/", 3)[3]
        yield client


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_sees(viewer: Viewer, known: httpx.Client) -> None:
    cookie = httpx.get(viewer.address).headers["set-cookie"]
    path = "/" + viewer.base.split("/")[3]
    assert cookie.split("; ")[1:] == ["HttpOnly", f"Path={path}", "SameSite=strict"]
    token = viewer.address.partition("=")[2]
    assert token not in cookie
    page = known.get(viewer.base)
    assert SECRET in page.text
    assert token not in page.text


@pytest.mark.parametrize(
    ("path", "cookie"),
    [
        ("", None),
        ("?token=", None),
        ("?token=wrong", None),
        ("?token=%F0%9F%90%8D", None),
        ("", "perdure=wrong"),
        ("", "perdure="),
        ("?token=wrong", "the right one"),
        ("conversation?user=local&id=secret", None),
        ("nothing", None),
        ("/../../../", None),
    ],
)
def test_without_the_token_nothing_is_shown_but_how_to_get_in(
    viewer: Viewer, known: httpx.Client, path: str, cookie: str | None
) -> None:
    if cookie == "the right one":
        cookie = f"perdure={known.cookies['perdure']}"
    refused = httpx.get(viewer.base + path, headers={"cookie": cookie} if cookie else {})
    assert refused.status_code == 401
    assert "open the address that `perdure ui` printed" in refused.text.replace("Open", "open")
    assert SECRET not in refused.text
    assert "set-cookie" not in refused.headers


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/conversation", "/file", "/favicon.ico", "//", "/static/../x"),
        *("/static/", "/static/nothing", "/static/%00", "/static/%2e%2e/access.py", "/sta%09tic/x"),
    ],
)
def test_outside_of_its_own_path_there_is_nothing_and_the_path_is_not_told(
    viewer: Viewer, known: httpx.Client, path: str
) -> None:
    refused = known.get(viewer.origin + path, headers={"cookie": f"perdure={known.cookies['perdure']}"})
    assert refused.status_code in (401, 404)
    assert viewer.base.split("/")[3] not in refused.text
    assert SECRET not in refused.text


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1"},
        {"host": "evil.example:{port}"},
        {"host": "127.0.0.1:{port}.evil.example"},
        {"host": "localhost.:{port}"},
        {"host": "0.0.0.0:{port}"},
        {"host": "["},
        {"host": "127.0.0.1:{port}", "x-forwarded-host": "evil.example", "origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "anything"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "https://127.0.0.1:{port}"},
        {"origin": "null"},
    ],
    ids=str,
)
def test_whoever_comes_under_another_name_or_from_another_page_is_refused(
    viewer: Viewer, known: httpx.Client, headers: dict[str, str]
) -> None:
    port = viewer.origin.rpartition(":")[2]
    asked = {name: value.replace("{port}", port) for name, value in headers.items()}
    cookie = {"cookie": f"perdure={known.cookies['perdure']}"}
    for address in (viewer.base, viewer.address, f"{viewer.origin}/static/viewer.css"):
        refused = httpx.get(address, headers={**asked, **cookie})
        assert refused.status_code in (403, 421), address
        assert SECRET not in refused.text
        assert "set-cookie" not in refused.headers


def test_its_own_pages_and_the_address_bar_are_let_in_by_both_names(viewer: Viewer, known: httpx.Client) -> None:
    port = viewer.origin.rpartition(":")[2]
    for name in ("127.0.0.1", "localhost"):
        for site in ("none", "same-origin"):
            cookie = f"perdure={known.cookies['perdure']}"
            headers = {"host": f"{name}:{port}", "sec-fetch-site": site, "cookie": cookie}
            assert httpx.get(viewer.base, headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_only_reads(viewer: Viewer, known: httpx.Client, method: str) -> None:
    refused = known.request(method, viewer.base)
    assert refused.status_code == 405
    assert "only shows what is kept" in refused.text


def test_every_answer_has_the_headers_that_protect_it(viewer: Viewer, known: httpx.Client) -> None:
    for address in (
        viewer.address,
        viewer.base,
        viewer.page("search", q='"'),
        viewer.page("nothing"),
        viewer.page("conversation", user="local", id="nobody"),
        f"{viewer.origin}/",
        f"{viewer.origin}/static/viewer.js",
        f"{viewer.origin}/static/nothing",
    ):
        answer = known.get(address)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, address
    refused = httpx.get(viewer.base, headers={"host": "evil.example"})
    assert {name: refused.headers.get(name) for name in HEADERS} == HEADERS


def test_the_address_that_a_browser_is_started_with_is_good_once(viewer: Viewer, tmp_path: Path) -> None:
    """All users of the machine can read it among the arguments of the browser."""
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\nprintf %s "$1" > {tmp_path / "opened.part"}\nmv {tmp_path}/opened.part {tmp_path}/opened\n'
    )
    browser.chmod(0o755)
    with a_viewer(tmp_path / "data", "--open", BROWSER=f"{browser} %s") as opening:
        assert opening.process.stdout is not None
        assert "Ctrl-C ends it" in opening.process.stdout.readline()
        for _ in range(200):
            if (tmp_path / "opened").exists():
                break
            threading.Event().wait(0.05)
        opened = (tmp_path / "opened").read_text()
        path = opening.base.removeprefix(opening.origin)
        assert path not in opened  # or they would know for which path to wait for the cookie
        assert opening.address.partition("=")[2] not in opened
        first, second = httpx.get(opened), httpx.get(opened)
        assert (first.status_code, first.headers["location"]) == (303, path)
        assert f"Path={path.rstrip('/')};" in first.headers["set-cookie"]
        assert (second.status_code, "set-cookie" in second.headers) == (401, False)
        assert "somebody has used it" in second.text
        assert path not in second.text
        assert [httpx.get(opening.address).status_code for _ in range(2)] == [303, 303]


def test_a_browser_that_is_waited_for_is_shown_the_page(tmp_path: Path) -> None:
    """Those of a terminal, as w3m, are."""
    browser = tmp_path / "browser"
    browser.write_text(
        f"#!{sys.executable}\nimport pathlib, sys, httpx\npart = pathlib.Path({str(tmp_path / 'seen.part')!r})\n"
        "part.write_text(httpx.get(sys.argv[1], follow_redirects=True).text)\npart.rename(part.with_suffix(''))\n"
    )
    browser.chmod(0o755)
    with a_viewer(tmp_path / "data", "--open", BROWSER=f"{browser} %s"):
        for _ in range(400):
            if (tmp_path / "seen").exists():
                break
            threading.Event().wait(0.05)
        assert "Nothing is kept yet" in (tmp_path / "seen").read_text()


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────────────────


class Stranger(http.server.BaseHTTPRequestHandler):
    """Another server on this machine, whose page the same browser shows."""

    seen: list[str]

    def do_GET(self) -> None:
        type(self).seen.append(self.headers.get("cookie", ""))
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("set-cookie", "perdure=another; Path=/")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>stranger</title>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    Stranger.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


READING = """async ([base, image]) => {
    const found = [];
    for (const mode of ["cors", "no-cors"]) {
        try {
            const answer = await fetch(base, {credentials: "include", mode});
            found.push(answer.type, await answer.text());
        } catch (error) { found.push("refused"); }
    }
    for (const [tag, url] of [["img", image], ["script", base], ["iframe", base]]) {
        const element = document.createElement(tag);
        const done = new Promise((resolve) => {
            element.onload = () => resolve("loaded");
            element.onerror = () => resolve("refused");
        });
        element.src = url;
        document.body.append(element);
        found.push(await done);
        if (tag === "iframe") found.push(element.contentDocument?.body.innerText ?? "closed");
    }
    return found;
}"""


def test_another_page_in_the_same_browser_reads_and_shows_nothing_of_it(
    browser: Browser, viewer: Viewer, stranger: str
) -> None:
    """Another port of the loopback is the same *site*, so SameSite alone keeps nothing of this away."""
    context = browser.new_context()
    page = entered(context.new_page(), viewer)
    page.get_by_role("link", name=SECRET).click()
    image = page.locator("img").get_attribute("src")
    page.goto(stranger)
    found = page.evaluate(READING, [viewer.base, f"{viewer.origin}{image}"])
    assert found[:2] in (["refused", "refused"], ["refused", "opaque"])
    assert SECRET not in str(found)
    assert [part for part in found if part == "loaded"] == ["loaded"]  # the frame, with the browser's own error in it
    assert found[-1] == "closed"
    with context.expect_page() as opened:
        page.evaluate("base => { window.other = window.open(base); }", viewer.base)
    opened.value.wait_for_load_state()
    assert SECRET not in opened.value.content()
    assert (
        page.evaluate("(() => { try { return window.other.document.body.innerText } catch { return 'closed' } })()")
        == "closed"
    )
    context.close()


def test_another_server_on_this_machine_is_not_sent_the_cookie_and_shuts_nobody_out_with_its_own(
    browser: Browser, viewer: Viewer, stranger: str
) -> None:
    """Cookies do not know ports."""
    context = browser.new_context()
    page = entered(context.new_page(), viewer)
    page.goto(stranger)
    page.goto(f"{stranger}conversation")
    assert len(Stranger.seen) >= 2
    assert set(Stranger.seen) <= {"", "perdure=another"}
    page.goto(viewer.base)
    expect(page.get_by_role("heading", level=1)).to_have_text("Conversations")
    context.close()
