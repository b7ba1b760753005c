"""A real browser, without a screen, that opens a page from the disk and watches what it does."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# The lowest contrast of a text with the ground it stands on (WCAG 2.2, relative luminance).
CONTRAST = """() => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
    const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const found = parse(getComputedStyle(at).backgroundColor);
            if (found.length < 4 || found[3] > 0) return light(found);
        }
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let lowest = 21;
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (!texts.currentNode.textContent.trim() || !node.checkVisibility()) continue;
        const svg = node.namespaceURI.endsWith("svg");
        const style = getComputedStyle(node);
        const [a, b] = [light(parse(svg ? style.fill : style.color)), ground(node)];
        lowest = Math.min(lowest, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
    }
    return lowest;
}"""


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
