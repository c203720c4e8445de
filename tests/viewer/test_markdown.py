"""What a tool wrote becomes a page of about its own length, and where it would not, it is shown as it was written."""

import pytest

from perdure.viewer.markdown import LONGEST, as_html


def html_of(text: str) -> str | None:
    return as_html(text, lambda uri: uri)


def table(columns: int, rows: int, row: str) -> str:
    return f"{'|a' * columns}|\n{'|-' * columns}|\n" + f"{row}\n" * rows


REPEATED = f'[a]: https://e.example "{"t" * (LONGEST // 2)}"\n\n' + "[a]" * (LONGEST // 7)
MADE_UP = "\n" + table(200, 700, "a")


@pytest.mark.parametrize(
    "text", [REPEATED, MADE_UP, MADE_UP.replace("\n", "\n> "), f"- a\n\n{MADE_UP}"[:2500], MADE_UP * 10]
)
def test_what_would_become_a_page_many_times_as_long_is_shown_as_it_was_written(text: str) -> None:
    assert len(text) <= LONGEST
    assert html_of(text) is None


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        (table(12, 100, "|a" * 12 + "|"), 1212),
        (table(12, 100, "|" * 13), 1212),
        (table(3, 20, "one"), 63),
        (f"before\n{table(4, 3, '|1|2')}\nafter\n\n{table(2, 1, 'x|y')}", 20),
    ],
)
def test_a_table_that_somebody_wrote_is_one_with_rows_that_are_too_short_too(text: str, cells: int) -> None:
    html = html_of(text)
    assert html is not None
    assert html.count("<th>") + html.count("<td>") == cells


def test_references_are_links() -> None:
    html = html_of("[one][r] and [two][r]\n\n[r]: https://e.example 'a title'")
    assert html is not None
    assert html.count('href="https://e.example" title="a title"') == 2


@pytest.mark.parametrize("address", ["http:text", "https:/static/viewer.js", "HTTP:?q=a", "http:#main", "http:///x"])
def test_no_address_without_a_host_is_a_link(address: str) -> None:
    assert html_of(f"[a]({address})") == f"<p>[a]({address})</p>\n"
