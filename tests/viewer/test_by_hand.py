"""The page in a browser, as its reader uses it: by the keyboard alone, on a phone, in the dark, without scripts."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cli.kept_data import BEGAN
from playwright.sync_api import Browser, Page, expect
from viewer.driving import Viewer, a_viewer, entered
from viewer.kept import Kept, kept_to_look_at, picture

OUTSIDE = """[...document.querySelectorAll("main *")].filter(
    (element) => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".wide *")).length"""
PHONE = {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("kept")
    kept = kept_to_look_at(folder)
    _many_turns(kept)
    kept.close()
    with a_viewer(folder) as viewer:
        yield viewer


def _many_turns(kept: Kept) -> None:
    # Before the others: of turns of one moment the newest is the one whose id happens to be the last.
    earlier = BEGAN - timedelta(minutes=1)
    kept.turn(
        "weather?", '[{"__init__": "*one* _two_"}]', conversation="json", others={"city": "Lisbon"}, began=earlier
    )
    wide = "| " + " | ".join(f"column_{n}" for n in range(12)) + " |\n" + "|---" * 12 + "|\n" + "| value " * 12 + "|\n"
    for number in range(1, 61):
        answer = f"answer {number}\n\n```\n{'long_line_' * 40}\n```\n\n{wide}" if number == 60 else f"answer {number}"
        kept.turn(f"question {number}", answer, conversation="long")


@pytest.fixture
def page(browser: Browser, viewer: Viewer) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    yield entered(context.new_page(), viewer)
    context.close()


def press(page: Page, key: str) -> None:
    page.wait_for_load_state()  # a page whose script is not there yet knows no keys
    page.keyboard.press(key)


def test_from_the_list_to_a_file_and_back_by_the_keyboard_alone(page: Page, viewer: Viewer, tmp_path: Path) -> None:
    press(page, "/")
    page.keyboard.type("draw or hotel")
    press(page, "Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Search")
    assert page.locator("mark").all_inner_texts() == ["hotel", "Draw"]
    press(page, "j")
    press(page, "j")
    press(page, "k")
    press(page, "j")
    press(page, "Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("plot_sales")
    while page.evaluate("document.activeElement.innerText").startswith("sales.png") is False:
        press(page, "Tab")
    with page.expect_download() as download:
        press(page, "Enter")
    assert download.value.suggested_filename == "sales.png"
    download.value.save_as(tmp_path / "saved.png")
    assert (tmp_path / "saved.png").read_bytes() == picture()
    press(page, "Escape")
    expect(page.get_by_role("heading", level=1)).to_have_text("sales-review")
    expect(page.locator("#turn-1")).to_be_focused()  # where it came from
    press(page, "Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("plot_sales")
    press(page, "Escape")
    expect(page.get_by_role("heading", level=1)).to_have_text("sales-review")
    press(page, "Escape")
    expect(page.get_by_role("heading", level=1)).to_have_text("Conversations")
    assert page.url == viewer.base


def test_the_keys_are_told_and_do_nothing_while_somebody_writes(page: Page, viewer: Viewer) -> None:
    press(page, "?")
    expect(page.get_by_role("dialog")).to_be_visible()
    press(page, "Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    press(page, "/")
    page.keyboard.type("jk?/n")
    expect(page.locator("#q")).to_have_value("jk?/n")
    expect(page.get_by_role("dialog")).to_be_hidden()
    press(page, "Escape")
    press(page, "j")
    assert page.evaluate("document.activeElement.hasAttribute('data-item')")
    assert page.url == viewer.base


def test_pages_of_turns_are_turned_by_keys_and_by_number(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.page("conversation", user="local", id="long"))
    assert places(page) == list(range(36, 61))
    press(page, "p")
    expect(page.locator(".place").first).to_have_text("11")
    assert places(page) == list(range(11, 36))
    press(page, "p")
    expect(page.locator(".place").first).to_have_text("1")
    press(page, "n")
    expect(page.locator(".place").first).to_have_text("26")
    page.wait_for_load_state()  # only then is the turn that the address names given the focus
    page.get_by_label("Go to turn").fill("58")
    page.get_by_label("Go to turn").press("Enter")
    expect(page.locator(".place").first).to_have_text("58")
    assert places(page) == [58, 59, 60]


def places(page: Page) -> list[int]:
    return [int(text) for text in page.locator(".place").all_inner_texts()]


def test_a_list_is_filtered_by_tool_user_and_outcome(page: Page) -> None:
    page.get_by_label("Outcome").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    assert page.locator(".list .id").all_inner_texts() == ["nightly-import"]
    page.get_by_label("Outcome").select_option("")
    page.get_by_label("User").fill("alice")
    press(page, "Enter")
    expect(page.locator(".list .id")).to_have_text(["support-digest", "6f1c2b9a-6a0e-4d57-9a55-0b1f0d2f7c11"])
    page.get_by_label("Tool").fill("chat")
    press(page, "Enter")
    expect(page.get_by_role("heading", level=2)).to_have_text("No conversation is like that")
    page.get_by_label("User").fill("")
    press(page, "Enter")
    expect(page.locator(".list .id")).to_have_text(["lisbon-trip", "long", "json"])


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, viewer: Viewer) -> None:
    context = browser.new_context(viewport=PHONE)
    page = entered(context.new_page(), viewer)
    for address in every_page(viewer):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], address
        assert page.evaluate(OUTSIDE) == 0, address
    context.close()


def every_page(viewer: Viewer) -> list[str]:
    return [
        viewer.page(),
        viewer.page("conversation", user="local", id="long"),
        viewer.page("conversation", user="local", id="sales-review"),
        viewer.page("turn", user="local", id="sales-review", place=1),
        viewer.page("turn", user="local", id="long", place=60),
        viewer.page("search", q="hotel or question"),
        viewer.page("search", q='"open'),
        viewer.page("nothing"),
    ]


def test_dark_is_what_the_system_says_until_somebody_chooses(browser: Browser, viewer: Viewer) -> None:
    context = browser.new_context(color_scheme="dark")
    page = entered(context.new_page(), viewer)
    assert brightness(page) < 60
    page.get_by_role("link", name="Theme: auto").click()
    expect(page.get_by_role("link", name="Theme: light")).to_be_visible()
    assert page.url == viewer.base
    assert brightness(page) > 200
    page.emulate_media(color_scheme="light")
    page.get_by_role("link", name="Theme: light").click()
    expect(page.get_by_role("link", name="Theme: dark")).to_be_visible()
    assert brightness(page) < 60
    page.goto(viewer.page("conversation", user="local", id="lisbon-trip"))
    assert brightness(page) < 60
    context.close()


def brightness(page: Page) -> int:
    page.wait_for_load_state()
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return max(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))


def test_everything_can_be_reached_without_scripts(browser: Browser, viewer: Viewer) -> None:
    context = browser.new_context(java_script_enabled=False, color_scheme="light")
    page = entered(context.new_page(), viewer)
    page.get_by_role("searchbox").fill("table for two")
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("link", name="answer of turn 2").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Turn 2")
    page.get_by_text("Result, as the tool gave it").click()
    page.get_by_role("link", name="Turn 1").click()
    page.get_by_role("link", name="lisbon-trip").click()
    page.get_by_role("link", name="Conversations").click()
    page.get_by_role("link", name="Theme: auto").click()
    expect(page.get_by_role("link", name="Theme: light")).to_be_visible()
    expect(page.get_by_role("button", name="Keys")).to_be_hidden()
    context.close()


def test_a_question_that_cannot_be_understood_is_answered_with_how_to_write_it(page: Page) -> None:
    page.get_by_role("searchbox").fill('"table for two')
    page.get_by_role("searchbox").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("is never closed")
    expect(page.get_by_role("alert")).to_contain_text('Put a " at the end of the phrase.')
    expect(page.get_by_role("searchbox")).to_have_value('"table for two')
    expect(page.get_by_text("a word that begins so")).to_be_visible()


def test_times_are_relative_and_exact_where_one_points(page: Page) -> None:
    moment = page.locator("time").first
    assert moment.inner_text() == "2 min ago"
    assert (moment.get_attribute("title") or "").startswith("20")


def test_an_answer_in_json_is_shown_as_it_is_and_arguments_beside_the_prompt_too(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.page("turn", user="local", id="json", place=1))
    expect(page.locator(".answer .plain")).to_have_text('[{"__init__": "*one* _two_"}]')
    page.locator("summary").filter(has_text="Arguments").click()
    expect(page.locator(".json .plain").first).to_have_text('{ "city": "Lisbon" }')


def test_the_address_that_is_left_holds_no_token(page: Page, viewer: Viewer) -> None:
    assert page.url == viewer.base
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("document.referrer") == ""
