"""Fixtures of the tests of what a person sees."""

import pytest

from tests.show.browser import start_browser


@pytest.fixture(scope="session")
def browser():
    yield from start_browser()


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
