"""A page that is wrong is found to be: the tests of the documentation can fail."""

from pathlib import Path

import pytest
from documentation import blocks as found
from documentation.blocks import blocks
from documentation.following import Stage, follow

from perdure.errors import SettingsError


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(found, "REPOSITORY", tmp_path)

    def follow_page(text: str) -> int:
        page = tmp_path / "page.md"
        page.write_text(text)
        return follow(page, Stage(tmp_path / "home"))

    return follow_page


def test_a_page_is_followed_in_its_order_in_one_directory_and_one_shell(followed) -> None:
    assert (
        followed(
            "```console\n$ mkdir made\n$ cd made\n$ export WHO=Ada\n```\n"
            "```python\n# said.py\nimport os\n\nprint('Hello,', os.environ['WHO'])\n```\n"
            "Text.\n\n```console\n$ python said.py\nHello, Ada\n$ ls |\n    wc -l\n1\n```\n"
        )
        == 3
    )


@pytest.mark.parametrize(
    "shown",
    [
        "my-project  3 turns, just now, 4 ms",
        "my-project  3 turns, 12 min ago,  1.25 s",
        "…  3 turns, 2 d ago, … ms",
        "…\nmy-project  3 turns, just now, 4 ms",
    ],
)
def test_ids_and_times_and_the_widths_of_columns_may_differ(followed, shown: str) -> None:
    followed(f"```console\n$ echo 'my-project      3 turns, 5 s ago, 17 ms'\n{shown}\n```\n")


@pytest.mark.parametrize(
    "block",
    [
        "console\n$ echo Hello\nHello, Ada",
        "console\n$ echo one; echo two\none",
        "console\n$ echo 'yours  3 turns'\nyours  4 turns",
        "console\n$ false",
        "console\n$ exit 3",
        "console\nmake demo",
        "python\nraise SystemExit(1)",
        "python\n# broken.py\nimport no_such_package",
        "json\n{'not': json}",
        "ruby\nputs 1",
        "\nwithout a language",
    ],
)
def test_what_does_not_do_what_is_written_fails(followed, block: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        followed(f"```{block}\n```\n")


def test_settings_that_perdure_would_refuse_fail(followed) -> None:
    with pytest.raises(SettingsError, match="max_turn"):
        followed("```toml\n[tools.chat]\nmax_turn = 5\n```\n")


def test_only_a_block_right_after_its_reason_is_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a moon -->\n```console\n$ fly\n```\n\nBetween.\n\n```console\n$ walk\n```\n"
        "<!-- not run: needs a sun -->\n\nA word.\n\n```console\n$ swim\n```\n"
    )
    assert [block.not_run for block in blocks(page)] == ["needs a moon", "", ""]
