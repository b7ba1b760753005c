"""Fixtures of the tests of what a person sees."""

import pytest

from tests.show.browser import start_browser


@pytest.fixture(scope="session")
def browser():
    yield from start_browser()
