"""The pages of judge as Chromium shows them; see browser.py for what these tests watch.

Oracles: the verdict and the comparison themselves, and a map that is drawn by hand.
"""

import pytest

import tinymem as tm
from tests.show.browser import opened, overflow
from tests.show.test_page_in_browser import CONTRAST
from tinymem.show.document import document_page, memories_page
from tinymem.show.report import number, token_text
from tinymem.tools.judge import judge_memories, judge_report
from tinymem.tools.likeliest import likeliest
from tinymem.tools.windows import Audit, Document

NAMED = {"adapter": "unit", "base": "tiny", "same_base": True}
LONG = 100_000


@pytest.fixture(scope="module")
def tiny():
    return tm.load("tiny")


def write_memories(path, tiny, unit, memories):
    model, tokenizer = tiny
    judged = judge_memories(model, unit, memories, tm.base.progress.SILENT)
    report = judge_report(model, unit, judged, NAMED, 1.0)
    with unit.attached(model):
        found = likeliest(model, memories)
    base = judged.compared.base_losses, judged.compared.base_margins
    memories_page(path, report, tokenizer, memories, judged.verdict, base, found)
    return judged


def test_memories_with_and_without_the_adapter(browser, tiny, tmp_path):
    model, tokenizer = tiny
    memories = [tm.random_memory(tokenizer, 12, seed=seed) for seed in range(2)]
    unit = tm.memorize(model, memories, rank=2, steps=40).unit
    judged = write_memories(tmp_path / "a.html", tiny, unit, memories)
    own, compared = judged.verdict, judged.compared
    assert 0 < sum(m > 0 for m in own.margins) < 24  # something to see
    worst = min(range(2), key=lambda n: min(own.margins[12 * n : 12 * n + 12]))
    with opened(browser, tmp_path / "a.html") as page:
        text = page.inner_text("main")
        assert f"margin > 0 for {sum(m > 0 for m in own.margins)}, p > ½ for " in text
        assert page.inner_text("table button >> nth=0") == f"memory {worst}"
        page.click("text=Without it")
        recited = sum(m > 0 for m in compared.base_margins)
        assert f"Without it: margin > 0 for {recited}, p > ½ for 0 of 24" in page.inner_text("main")
        page.focus("[role=option]")
        label = page.locator(":focus").get_attribute("aria-label")
        t = 12 * worst
        assert f"id {own.targets[t]}, " in label
        assert f"margin {number(compared.base_margins[t])} logits, p " in label
        loss = number(own.losses[t])
        assert f"with the adapter: margin {number(own.margins[t])} logits, loss {loss}" in label


def test_an_adapter_that_changes_nothing_is_said_so_first(browser, tiny, tmp_path):
    model, tokenizer = tiny
    unit = tm.Unit.create(model, 1)
    write_memories(tmp_path / "a.html", tiny, unit, [tm.random_memory(tokenizer, 1)])
    with opened(browser, tmp_path / "a.html", "dark", 360) as page:
        assert page.inner_text("h1").startswith("The adapter changes nothing")
        assert "Not recited: 1 of 1" in page.inner_text("main p >> nth=0")
        assert overflow(page) <= 0


def audited(tokenizer, length, right, interrupted=False):
    """A document of random tokens, and an audit with these numbers of right tokens."""
    ids = list(tm.random_memory(tokenizer, length).target_ids)
    return Audit(Document(ids, [], context=32, window=50, stride=10), right, 0, 0, interrupted)


def write_document(path, tiny, audit):
    model, tokenizer = tiny
    judged = judge_memories(model, None, audit.document.spread(1), tm.base.progress.SILENT)
    report = judge_report(model, None, judged, NAMED | {"adapter": None}, 1.0)
    report |= {"windows": audit.as_dict() | {"compared": 1}, "length": len(audit.document.ids)}
    report["status"] = "interrupted" if audit.interrupted else "ok"
    document_page(path, report, tokenizer, audit.document.ids, audit.right)


def test_the_map_of_a_long_document(browser, tiny, tmp_path):
    right = [0] * len(range(32, LONG - 50 + 1, 10))
    right[5000:5010] = [50] * 10  # windows from 50,032 to 50,122, so tokens to 50,171
    right[100] = 50
    right[200] = 7
    write_document(tmp_path / "a.html", tiny, audited(tiny[1], LONG, right))
    with opened(browser, tmp_path / "a.html") as page:
        assert page.inner_text("h1") == f"Recited: 11 of the {len(right):,} windows"
        place = page.locator("output")
        stretch = "in a recited stretch of 140 tokens, 50,032 to 50,171"
        assert place.inner_text() == f"Token 50,032 of 100,000: {stretch}"
        chosen = page.locator("[aria-selected=true]")
        assert chosen.get_attribute("class") == "t t8"
        assert page.locator("[role=option]").count() <= 600  # of 100,000
        slider = page.locator("input[type=range]")
        slider.press("ArrowLeft")
        page.locator("output", has_text="Token 50,031 of 100,000: not recited").wait_for()
        assert chosen.get_attribute("class") == "t t10"
        slider.press("End")
        page.locator("output", has_text="Token 99,999").wait_for()
        last = tm.random_memory(tiny[1], LONG).target_ids[-1]
        assert chosen.text_content() == token_text(tiny[1], last)
        page.locator("table button >> nth=1").press("Enter")
        assert "a recited stretch of 50 tokens, 1,032 to 1,081" in place.inner_text()
        page.locator(".map svg").click(position={"x": 0.5, "y": 5})
        page.locator("output", has_text="in no window that was judged").wait_for()
        texts = page.locator(".legend li").all_inner_texts()
        assert [text.rsplit("(")[-1] for text in texts] == ["190)", "7)", "99,763)", "40)"]
        page.locator("[role=option][tabindex='0']").press("ArrowRight")
        assert page.is_visible("#tip")


def test_documents_that_are_not_recited_or_not_finished(browser, tiny, tmp_path):
    for right, some in (([3, 50], "Recited: 1 of the 2"), ([3, 4], "Not recited: none of the 2")):
        write_document(tmp_path / "a.html", tiny, audited(tiny[1], 200, right, True))
        with opened(browser, tmp_path / "a.html", "dark", 360) as page:
            assert page.inner_text("h1") == f"{some} windows"
            assert "Interrupted after 2 of 12 windows" in page.inner_text("main")
            assert overflow(page) <= 0 and page.evaluate(CONTRAST) >= 4.5
