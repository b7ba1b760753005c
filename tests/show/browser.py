"""A real browser, without a screen, that opens a page from the disk and watches what it does."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def start_browser() -> Iterator:
    """Yields a browser, for a fixture; skips the test where playwright or Chromium is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra browser)")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@contextmanager
def opened(browser, path: Path, scheme: str = "light", width: int = 1000) -> Iterator:
    """The page at `path`; afterwards it must have loaded nothing else and complained of nothing."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    page.close()


def overflow(page) -> int:
    """Pixels by which the page is wider than the window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
