"""Every block of code in the documentation is run, page by page, or says why it cannot be."""

from pathlib import Path

import pytest
from documentation.blocks import REPOSITORY, blocks, pages
from documentation.following import follow
from documentation.stages import ELSEWHERE, stage_of

NAMES = [str(page.relative_to(REPOSITORY)) for page in pages()]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
def test_a_page_does_what_it_says(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = REPOSITORY / name
    if all(block.not_run for block in blocks(page)):
        return
    with stage_of(name, tmp_path, request) as stage:
        assert follow(page, stage) > 0


def test_a_block_that_is_not_run_says_why_in_words() -> None:
    reasons = [(str(block), block.not_run) for name in NAMES for block in blocks(REPOSITORY / name) if block.not_run]
    assert [at for at, reason in reasons if len(reason.split()) < 3] == []
    assert len(reasons) < 60, "most of what can be run should be"
