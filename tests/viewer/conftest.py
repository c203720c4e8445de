"""One browser for each file of tests; what they look at is each file's own."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from viewer.driving import a_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser
