"""The page of a sweep and its laws, in a real browser, opened from the disk as a reader does.

Oracle: the rows themselves, and the plans of law/recite.py and law/plan.py, which the page computes
again in its own script.
"""

from contextlib import ExitStack
from pathlib import Path
from statistics import fmean

import pytest

import tinymem as tm
from tests.show.browser import opened, overflow
from tinymem.law.plan import base_loss_at
from tinymem.law.power import LN2
from tinymem.law.recite import chance, curve_of
from tinymem.show.grid import sweep_page
from tinymem.show.tables import show_plan, show_recital

ROWS = Path(__file__).parents[2] / "tutorials" / "reproduction" / "rows"


@pytest.fixture
def view(browser, tmp_path):
    """A function that writes the page of some rows and opens it; browser.py watches it."""
    with ExitStack() as pages:

        def show(rows, width=1000, **options):
            path = tmp_path / "page.html"
            sweep_page(path, rows, **options)
            return pages.enter_context(opened(browser, path, width=width))

        yield show


def recorded(name):
    return tm.read_rows(ROWS / f"{name}.jsonl")[0]


def cell(page, rank, length, table=0):
    """The text of a cell of a heat map, found by its headers."""
    found = page.locator("table.heat").nth(table)
    heads = found.locator("thead tr").last.locator("th").all_inner_texts()
    row = found.locator("tbody tr", has=page.locator(f"th:text-is('{rank}')"))
    return row.locator("th, td").nth(heads.index(f"{length:,}"))


def set_dial(page, name, value):
    page.get_by_label(name, exact=True).and_(page.locator("input[type=number]")).fill(str(value))
    settle(page)


def settle(page):
    """Waits for the answers: computed once a frame, and later if they take long."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    page.wait_for_selector("#answers:not([aria-busy])")


def printed(show, *args):
    """The lines that a command prints of a plan."""
    from tinymem.show import tables

    with tables.stdout.capture() as captured:
        show(*args)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def lines(page, box):
    return [" ".join(text.split()) for text in page.locator(f"#{box} p").all_inner_texts()]


# --- Heat maps -----------------------------------------------------------------------------------


def test_the_cells_of_each_measure_are_the_means_of_the_rows(view):
    rows = recorded("tiny")
    page = view(rows, fits=[], refused={})
    texts = {
        "final_loss": lambda some: f"{fmean(row['final_loss'] for row in some):.3f}",
        "memorized_bits_per_parameter": lambda some: (
            f"{fmean(row['memorized_bits_per_parameter'] for row in some):.2f}"
        ),
        "recited": lambda some: f"{100 * fmean(row['recall_exact'] for row in some):.0f} %",
        "certified_fraction": lambda some: (
            f"{min(99, round(100 * fmean(row['certified_fraction'] for row in some)))} %"
        ),
        "converged": lambda some: f"{100 * fmean(row['converged'] for row in some):.0f} %",
    }
    fields = [one["field"] for one in page.evaluate("data.measures")]
    for field, text in texts.items():
        page.select_option("#measure", str(fields.index(field)))
        for rank, length in ((1, 32), (4, 64), (8, 128), (2, 512)):
            some = [row for row in rows if (row["rank"], row["length"]) == (rank, length)]
            assert cell(page, rank, length).inner_text().split("✓")[0].rstrip(" *") == text(some)


def test_arrow_keys_go_from_cell_to_cell_and_enter_opens_the_runs(view):
    rows = recorded("tiny")
    page = view(rows, fits=[], refused={})
    page.locator("#measure").focus()
    page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    seeds = [row for row in rows if (row["rank"], row["length"]) == (4, 64)]
    tip = page.locator("#tip").inner_text()
    assert "rank 4, 64 tokens" in tip
    assert all(f"seed {row['seed']}: loss {row['final_loss']:.3f}" in tip for row in seeds)
    page.keyboard.press("Enter")
    opened = page.locator(".runs table").first
    assert "rank 4, 64 tokens, 3 runs" in opened.inner_text()
    margins = opened.locator("tr", has=page.locator("code:text-is('min_probability')"))
    texts = margins.locator("td").all_inner_texts()
    assert texts == [f"{row['min_probability']:.3f}" for row in seeds]
    page.keyboard.press("Enter")
    assert page.locator(".runs table").count() == 0
    page.keyboard.press("End")
    assert "rank 4, 512 tokens" in page.locator("#tip").inner_text()


def test_failed_and_missing_cells_say_so_in_words(view):
    rows = [row for row in recorded("tiny") if row["seed"] == 0]
    diverged, half = ((8, 64), (8, 128))
    rows = [row for row in rows if (row["rank"], row["length"]) != (16, 512)]
    for row in rows:
        if (row["rank"], row["length"]) == diverged:
            row |= {"status": "diverged", "final_loss": None, "delta_loss": None}
    again = next(row for row in rows if (row["rank"], row["length"]) == half)
    rows.append(again | {"seed": 1, "status": "oom", "final_loss": None, "delta_loss": None})
    asked = {"rank": 16, "ratio": 100, "method": "sft", "seed": 0}
    page = view(rows, cells=[asked | {"length": 512}, asked | {"length": 256}])
    assert cell(page, 8, 64).inner_text() == "diverged"
    assert cell(page, 16, 512).inner_text() == "missing"
    assert cell(page, 16, 96).inner_text() == "–" or (16, 96) in [
        (row["rank"], row["length"]) for row in rows
    ]
    assert cell(page, 8, 128).inner_text().endswith("!")
    name = cell(page, 8, 128).locator("button").get_attribute("aria-label")
    assert "1 out of memory" in name and "2 runs" in name
    assert "1 missing" in page.locator("main > p").first.inner_text()


def test_each_method_and_ratio_has_a_map(view):
    rows = [*recorded("tiny-methods"), *recorded("tiny-ratios")]
    page = view(rows, fits=[], refused={})
    names = [name.split(":")[0] for name in page.locator(".heat-name").all_inner_texts()]
    random = [f"sft, {ratio} % random tokens" for ratio in (100, 0, 20, 40, 60, 80)]
    others = [f"{method}, 100 % random tokens" for method in ("memft-ot", "memft-sw")]
    assert sorted(names) == sorted(random + others)


def test_rows_without_a_law_have_the_reason_and_their_map(view):
    rows = [row for row in recorded("tiny") if row["rank"] == 1]
    for row in rows:
        row["recall_exact"] = row["verbatim"] = False
    with pytest.raises(tm.LawError) as error:
        tm.fit_rows(rows)
    page = view(rows)
    assert f"No law: {error.value}" in page.inner_text("main")
    assert page.locator("#answers").count() == 0 and cell(page, 1, 32).inner_text()


# --- The laws ------------------------------------------------------------------------------------


def test_the_law_stands_as_fit_prints_it(view, tinymem_out):
    rows = recorded("tiny")
    page, out = view(rows), tinymem_out(rows)
    text = " ".join(page.inner_text("main").split())
    (formula,) = [line for line in out.splitlines() if line.startswith("ΔL =")]
    assert page.inner_text("#formula") == formula.strip()
    ((fit,), _) = tm.fit_rows(rows)
    low, high = fit.law.ci["alpha"]
    assert f"{low:.3g} to {high:.3g}" in text and f"{fit.law.mape:.1f} %" in text
    assert "51 of them not converged. Left out: 30 saturated (final loss ≤ ln 2)" in text
    assert f"κ {fit.bits.kappa:.3f}" in text
    left = next(row for row in rows if (row["rank"], row["length"]) == (1, 32))
    same = [row for row in rows if (row["rank"], row["length"]) == (1, 32)]
    off = fmean(fit.law.predict(1, 32) / row["delta_loss"] - 1 for row in same)
    assert left["final_loss"] > LN2
    assert cell(page, 1, 32, table=1).inner_text() == f"{100 * off:+.1f} %"
    assert cell(page, 16, 64, table=1).inner_text() == "saturated"


@pytest.fixture
def tinymem_out(capsys):
    """What `fit` prints of rows."""

    def show(rows):
        from tinymem.show.tables import show_fits

        show_fits(*tm.fit_rows(rows))
        return capsys.readouterr().out

    return show


def test_points_of_the_charts_name_their_cell(view):
    page = view(recorded("tiny"))
    names = page.locator("svg path[role=img]").evaluate_all(
        "nodes => nodes.map(node => node.getAttribute('aria-label'))"
    )
    assert sum("power law" in name for name in names) == 60
    (recall,) = [name for name in names if name.startswith("rank 4, 64 tokens, ")][-1:]
    some = [r for r in recorded("tiny") if (r["rank"], r["length"]) == (4, 64)]
    assert f"{sum(r['recall_exact'] for r in some)} of 3 runs recited" in recall


def test_rows_written_by_hand_by_a_stranger(view):
    """No losses but ΔL, parameters that fit no rule, and texts that would like to be HTML."""
    nasty = "<img src=x onerror=alert(1)></script><b>"
    rows = [
        {"rank": r, "length": n, "delta_loss": 8 * (r / n) ** 0.5 + 1, "method": nasty}
        | {"trainable_parameters": 100 * r + 7, "recall_exact": n < 40 * r, "status": None}
        | {"memories": "many", "certified_fraction": "x", "min_margin": [1], "__proto__": {}}
        for r in (1, 2, 4)
        for n in (16, 64, 256)
    ]
    page = view(rows)
    assert nasty in page.inner_text(".heat-name") and page.locator("main img, main b").count() == 0
    options = page.locator("#measure option").all_inner_texts()
    assert options[0] == "ΔL (nats per token)"
    for name, shown in (("ΔL (nats per token)", "3.000"), ("tokens with p > ½ (%)", "–")):
        page.select_option("#measure", label=name)
        assert cell(page, 1, 16).inner_text().split()[0] == shown
    cell(page, 1, 16).locator("button").click()
    assert "min_margin" in page.inner_text(".runs")
    text = page.inner_text("main")
    assert "No plan to recite it word for word: ranks have different numbers of parameters" in text
    assert "No plan to certify every token (p > ½): the rows have no base_loss" in text


# --- The planner ---------------------------------------------------------------------------------

INPUTS = [(4, 100, 0.9), (1, 7, 0.99), (37, 2000, 0.123)]


def test_the_planner_answers_as_plan_does(view):
    rows = recorded("smollm2")
    fit = tm.fit_rows(rows)[0][0]
    page = view(rows)
    law, *_ = curve_of(fit, None)
    for rank, length, p in INPUTS:
        for field, value in (("rank", rank), ("length", length), ("probability", 100 * p)):
            set_dial(page, field, round(value, 6))
        for box, plan in (
            ("answer-rank", tm.recite_rank(fit, length, p)),
            ("answer-length", tm.recite_length(fit, rank, p)),
        ):
            expected = [
                line for line in printed(show_recital, plan, fit) if "by the rec" not in line
            ]
            assert " ".join(lines(page, box)) == " ".join(expected)
        (sentence, *_) = lines(page, "answer-chance")
        assert f"in {100 * chance(law, rank, length):.0f} % of fresh runs" in sentence
        if not isinstance(fit.law, str):
            loss = base_loss_at(fit.rows, length) - fit.law.predict(rank, length)
            words = "below ln 2" if loss <= LN2 else f"of {loss:.3f}"
            assert f"a final loss {words} nats per token" in lines(page, "answer-loss")[0]


@pytest.mark.parametrize("name", ["smollm2", "tiny-book-law"])
def test_the_planner_certifies_as_plan_does(view, name):
    """smollm2 has runs on both sides of the certificate; in tiny-book-law no run is certified."""
    rows = recorded(name)
    fit = tm.fit_rows(rows)[0][0]
    page = view(rows)
    page.select_option("#goal", "certify")
    for rank, length, p in INPUTS:
        for field, value in (("rank", rank), ("length", length), ("probability", 100 * p)):
            set_dial(page, field, round(value, 6))
        for box, plan in (
            ("answer-rank", tm.plan_rank(fit, length, probability=p)),
            ("answer-length", tm.plan_length(fit, rank, probability=p)),
        ):
            hidden = "by the law of", "The constant-bits law", "nats per token"
            shown = printed(show_plan, plan, fit)
            expected = [shown[0], *(s for s in shown[1:] if not any(h in s for h in hidden))]
            assert " ".join(lines(page, box)) == " ".join(expected)


def test_a_ratio_has_its_own_law_and_plans(view):
    rows = recorded("tiny-ratios")
    ((fit,), _) = tm.fit_rows(rows, draws=10)
    page = view(rows, fits=[fit], refused={})
    page.select_option("#law", label="tiny, layer 2, site mlp, sft, 100 % random tokens")
    set_dial(page, "length", 60)
    plan = tm.recite_rank(fit, 60, 0.9, ratio=100)
    assert plan.rank != tm.recite_rank(fit, 60, 0.9).rank
    assert f"Rank {plan.rank} recites 60 tokens" in lines(page, "answer-rank")[0]
    law = fit.by_ratio[100]
    assert f"· r^{law.alpha:.3f} · ℓ^−{law.beta:.3f}" in page.inner_text("#formula")


def test_the_sliders_are_moved_by_keyboard_and_agree_with_their_fields(view):
    page = view(recorded("smollm2"))
    slider, field = (page.get_by_label("length", exact=True).nth(n) for n in (0, 1))
    if slider.get_attribute("type") != "range":
        slider, field = field, slider
    before = int(field.input_value())
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    settle(page)
    after = int(field.input_value())
    assert before < after < 1.2 * before
    assert slider.get_attribute("aria-valuetext") == f"{after} tokens"
    assert f"recites {after:,} tokens" in page.inner_text("#answer-rank .sentence")
    field.fill("0")
    assert "a whole number from 1" in page.inner_text(".problem:not(:empty)")
    assert f"recites {after:,} tokens" in page.inner_text("#answer-rank .sentence")
    field.fill("5000")
    settle(page)
    assert page.locator(".problem:not(:empty)").count() == 0
    careful = page.inner_text("#answer-chance .careful")
    assert careful == "careful: length 5,000 is outside the measured 50 to 400: an extrapolation"


def test_it_fits_a_phone(view):
    page = view(recorded("tiny"), width=360)
    assert overflow(page) == 0
    right = "node => node.getBoundingClientRect().right"
    assert page.locator(".controls").evaluate(right) <= 360
    assert page.locator(".heat button").first.evaluate("node => node.offsetHeight") >= 24
    for part in (".controls", ".boxes", ".maps"):  # the style sheet is read to its end
        assert page.locator(part).evaluate("node => getComputedStyle(node).display") != "block"
