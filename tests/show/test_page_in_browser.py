"""The pages as Chromium shows them; see browser.py for what every one of these tests watches."""

import dataclasses
import math
import re

import pytest

import tinymem as tm
from tests.show.browser import CONTRAST, opened, overflow
from tests.show.pages import HOSTILE, LIKELIEST, HostileTokenizer, hostile_result
from tinymem.show.report import number, token_text
from tinymem.show.run import run_page
from tinymem.tools.likeliest import likeliest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose margins were watched, with some tokens wrong in the end, and its page."""
    model, tokenizer = tm.load("tiny")
    memory = tm.random_memory(tokenizer, 48)
    result = tm.memorize(model, memory, rank=2, steps=60, method="margin")
    path = tmp_path_factory.mktemp("pages") / "run.html"
    with result.unit.attached(model):
        found = likeliest(model, [memory])
    run_page(path, result, tokenizer, found)
    return result, path, tokenizer


def classes(page):
    return page.eval_on_selector_all("[role=option]", "nodes => nodes.map(node => node.className)")


def test_what_the_page_of_a_run_says_is_what_the_run_says(browser, run):
    result, path, tokenizer = run
    verdict, training = result.verdict, result.training
    assert verdict.wrong and not verdict.recall_exact  # something to see
    with opened(browser, path) as page:
        assert page.inner_text("h1").startswith(f"Not recited: {len(verdict.wrong)} of 48 argmaxes")
        page.click("summary")
        shown = dict(
            page.evaluate(
                "[...document.querySelectorAll('details tbody tr')].map("
                "row => [row.cells[0].textContent, row.cells[1].textContent])"
            )
        )
        report = result.report
        assert shown["final_loss"] == repr(report["final_loss"]) and shown["rank"] == "2"
        assert set(shown) == set(report) and shown["entropy"] == repr(report["entropy"])
        # In the end, the tokens have the verdict's values.
        page.focus("[role=option]")
        for t in range(4):
            label = page.locator(":focus").get_attribute("aria-label")
            margin, p = verdict.margins[t], verdict.probabilities[t]
            assert f"id {verdict.targets[t]}," in label and f"position {t}:" in label
            assert f"margin {number(margin)} logits, p " in label
            assert f"loss {number(verdict.losses[t])} nats" in label
            assert page.inner_text("#tip").count("id ") == 6
            assert token_text(tokenizer, verdict.predicted[t]) in page.inner_text("#tip table")
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Escape")
        assert not page.is_visible("#tip")
        # The wrong ones, one after the other, and then the first one again.
        button = page.locator("text=Next wrong token")
        order = sorted(verdict.wrong, key=lambda t: (t <= 4, t))  # from token 4 on, where we are
        for t in [*order, order[0]]:
            button.click()
            assert f"position {t}:" in page.locator(":focus").get_attribute("aria-label")
        # The first error.
        at = next(t for t in range(48) if verdict.decoded[t] != verdict.targets[t])
        assert f"Decoding leaves the target at position {at}:" in page.inner_text("main")
        # With the arrow keys, back through the recorded steps.
        slider, trace = page.locator("input[type=range]"), training.trace[::-1]
        slider.focus()
        for (step, p), (_, margins) in zip(trace[:3], training.margin_trace[::-1], strict=False):
            page.keyboard.press("ArrowLeft")
            recited, sure = sum(m > 0 for m in margins), sum(value > 0.5 for value in p)
            text = f"After {step} steps: margin > 0 for {recited}, p > ½ for {sure} of 48 tokens"
            page.locator("output", has_text=text).wait_for()
            assert slider.get_attribute("aria-valuetext") == text
            right = [re.fullmatch(r"t t[2345]", name) is not None for name in classes(page)]
            assert right == [m > 0 for m in margins]
        page.keyboard.press("Home")
        page.locator("output", has_text="After 0 steps").wait_for()
        page.hover("[role=option] >> nth=7")
        found = re.search(r"margin about (\S+) logits, p about (\S+),", page.inner_text("#tip"))
        assert float(found[1]) == pytest.approx(training.margin_trace[0][1][7], abs=0.1)
        assert float(found[2]) == pytest.approx(training.trace[0][1][7], abs=0.003)


def test_a_move_of_the_slider_changes_classes_and_no_elements(browser, run):
    """Which is what keeps 4,000 tokens without lag."""
    _, path, _ = run
    with opened(browser, path) as page:
        changes = page.evaluate("""async () => {
            const found = [];
            const box = document.querySelector("[role=listbox]");
            new MutationObserver((list) => found.push(...list)).observe(
                box, {childList: true, subtree: true, attributes: true, characterData: true});
            const input = document.querySelector("input[type=range]");
            input.value = 10;
            input.dispatchEvent(new Event("input"));
            await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            return found.map((one) => `${one.type} ${one.attributeName}`);
        }""")
        assert changes and set(changes) == {"attributes class"}


def test_hostile_tokens_are_shown_as_text(browser, tmp_path):
    path = tmp_path / "a.html"
    run_page(path, hostile_result(), HostileTokenizer(), LIKELIEST)
    with opened(browser, path) as page:
        assert page.locator("img").count() == 0 and page.locator("b").count() == 0
        texts = page.eval_on_selector_all(
            "[role=option]", "nodes => nodes.map(node => node.textContent)"
        )
        shown = {"\u2028": "·", "\u202eevil": "·evil", "\x1b[31m": "·[31m", "a\nb": "a⏎b"}
        assert set(texts) <= {shown.get(text, text) for text in HOSTILE} and len(set(texts)) > 4
        page.focus("[role=option]")
        assert "\u202e" not in page.content() and "\x1b" not in page.content()


@pytest.mark.parametrize("scheme, width", [("dark", 360), ("light", 360)])
def test_a_phone_shows_all_of_it_and_every_text_has_contrast(browser, run, scheme, width):
    _, path, _ = run
    with opened(browser, path, scheme, width) as page:
        assert overflow(page) <= 0
        page.click("summary")
        page.focus("[role=option]")
        assert overflow(page) <= 0
        assert page.evaluate(CONTRAST) >= 4.5


def test_runs_without_a_verdict_have_a_true_page_too(browser, tmp_path):
    model, tokenizer = tm.load("tiny")

    class Stop(tm.base.progress.Progress):
        def training(self, step, steps, loss, certified, recited):
            if step > 0.5 * steps:
                raise KeyboardInterrupt

    memory = tm.random_memory(tokenizer, 16)
    stopped = tm.memorize(model, memory, rank=1, steps=100, progress=Stop())
    wild = tm.memorize(model, memory, rank=1, steps=20, lr=1e5)
    assert stopped.report["status"] == "interrupted" and wild.report["status"] == "diverged"
    short = tm.memorize(model, tm.random_memory(tokenizer, 1), rank=1, steps=1)
    none = dataclasses.replace(short, training=dataclasses.replace(short.training, trace=[]))
    expected = {
        "stopped": (stopped, r"^Interrupted after \d+ steps, before the verdict$"),
        "wild": (wild, r"^Diverged"),
        "short": (short, r"^Not recited: 1 of 1"),
        "none": (none, r"^Not recited: 1 of 1"),
    }
    for name, (result, title) in expected.items():
        run_page(tmp_path / f"{name}.html", result, tokenizer)
        with opened(browser, tmp_path / f"{name}.html") as page:
            assert re.search(title, page.inner_text("h1"))
            assert page.locator("[role=option]").count() == len(result.memories[0].target_ids)
            assert page.locator("input[type=range]").count() == (name != "none")
            assert ("What decoding yields" in page.inner_text("main")) == (name != "stopped")
            assert "NaN" not in page.inner_text("main") and "undefined" not in page.inner_text(
                "main"
            )


def test_a_verdict_without_numbers_has_none(browser, tmp_path):
    model, tokenizer = tm.load("tiny")
    memories = [tm.random_memory(tokenizer, 4, seed=n) for n in range(2)]
    result = tm.memorize(model, memories, rank=1, steps=2)
    nothing = [math.nan] * 4
    lists = {
        name: getattr(result.verdict, name)[:4] + nothing
        for name in ("losses", "margins", "probabilities")
    }
    broken = dataclasses.replace(result, verdict=dataclasses.replace(result.verdict, **lists))
    run_page(tmp_path / "a.html", broken, tokenizer)
    with opened(browser, tmp_path / "a.html") as page:
        assert page.locator("tbody tr").first.inner_text().split("\t")[-2:] == ["–", "–"]
        assert page.inner_text("table button >> nth=0") == "memory 1"
        assert set(classes(page)) == {"t t7"}
        page.focus("[role=option]")
        assert page.locator(":focus").get_attribute("aria-label").endswith("no number")


def test_memories_are_listed_worst_first_and_open(browser, tmp_path):
    model, tokenizer = tm.load("tiny")
    memories = [
        tm.random_memory(tokenizer, 8, seed=seed, prompt=f"Number {seed}:") for seed in range(4)
    ]
    result = tm.memorize(model, memories, rank=2, steps=40)
    run_page(tmp_path / "a.html", result, tokenizer)
    margins = [min(result.verdict.margins[8 * n : 8 * n + 8]) for n in range(4)]
    order = sorted(range(4), key=margins.__getitem__)
    with opened(browser, tmp_path / "a.html") as page:
        buttons = page.locator("table button")
        assert buttons.all_inner_texts() == [f"memory {n}" for n in order]
        for n, button in zip(order, buttons.all(), strict=True):
            button.press("Enter")
            assert button.get_attribute("aria-pressed") == "true"
            texts = page.locator("[role=option]").all_text_contents()
            assert texts == [token_text(tokenizer, i) for i in memories[n].target_ids]
            assert f"Number {n}:" in page.inner_text("main section > div:last-child")
