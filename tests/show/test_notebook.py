"""What a notebook shows. Oracle: Python's own HTML parser, which reads texts and numbers back."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import tinymem as tm
from tests.show.test_one_line import ROWS, SURE
from tests.toy import toy_memory, toy_model
from tinymem.experiment.report import Result
from tinymem.law.fit import fit_rows
from tinymem.law.plan import plan_rank
from tinymem.law.recall import fit_recall
from tinymem.show import notebook
from tinymem.show.notebook import MOST

HOSTILE = "<script>alert('x')</script>&amp;\x1b[31m\"' onload=\""


class Words:
    """A tokenizer whose token 7 is the text of an attacker, and every other one a word."""

    def decode(self, ids: list[int]) -> str:
        return "".join(HOSTILE if i == 7 else f" word{i}" for i in ids)


class Page(HTMLParser):
    """The tokens (class, title, text), the rows of tables, and all text; tags must be balanced."""

    def __init__(self, html: str):
        super().__init__()
        self.tokens: list[list[str]] = []
        self.rows: list[list[str]] = []
        self.open, self.text, self.tags = [], "", set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        self.tags.add(tag)
        assert set(about) <= {"class", "title", "scope", "alt", "src"}, about
        if tag not in ("br", "img"):
            self.open.append(tag)
        if "title" in about:
            self.tokens.append([about["class"], about["title"], ""])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""
        if self.open[-1] == "span" and self.tokens:
            self.tokens[-1][2] += data
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def verdict(margins, probabilities, targets, **others) -> tm.Verdict:
    fields = dict(targets=targets, predicted=targets, decoded=targets, lengths=[len(targets)])
    losses = [1.0] * len(targets)
    return tm.Verdict(
        **{**fields, **others}, losses=losses, margins=margins, probabilities=probabilities
    )


UNSURE = verdict([2.5, 0.25, -1.5], [0.97, 0.4, 0.1], [5, 6, 7], predicted=[5, 6, 8])


def test_each_token_says_how_it_fares():
    page = Page(UNSURE.show(Words())._repr_html_())
    assert page.tokens == [
        ["p3", "0: id 5, margin 2.50, p 0.97", " word5"],
        ["p0", "1: id 6, margin 0.25, p 0.40", " word6"],
        [
            "w",
            "2: id 7, margin -1.50, p 0.10; likeliest ‹ word8›",
            f"‹{HOSTILE}›".replace("\x1b", "·"),
        ],
    ]
    assert page.rows[1][0] == "2" and page.rows[1][3:] == ["-1.500", "0.100"]
    assert page.tags <= {"style", "div", "strong", "span", "table", "tr", "th", "td", "br"}
    without = Page(UNSURE._repr_html_())
    assert [text for *_, text in without.tokens] == ["5", "6", "‹7›"]
    assert ".show(tokenizer) has the texts" in without.text


def test_memories_and_lines_begin_in_a_line_of_their_own():
    class Lines:
        def decode(self, ids: list[int]) -> str:
            return "a\n" if ids == [5] else "b"

    two = verdict([1.0] * 3, [0.9] * 3, [5, 6, 6], lengths=[2, 1])
    assert "a⏎\nb\nb" in Page(two.show(Lines())._repr_html_()).text
    assert repr(two.show(Lines())).splitlines()[1:] == ["a⏎b", "b"]


def test_a_long_target_is_small_and_a_longer_one_is_cut_around_what_is_wrong():
    whole = verdict([12.345] * MOST, [0.98] * MOST, list(range(8, 8 + MOST)))
    html = whole.show(Words())._repr_html_()
    assert len(html.encode()) < 100_000 and len(Page(html).tokens) == MOST
    margins = [1.0] * 5000
    margins[3000] = margins[4999] = -1.0
    longer = verdict(margins, [0.6] * 5000, list(range(8, 5008)))
    page = Page(longer._repr_html_())
    places = [int(title.partition(":")[0]) for _, title, _ in page.tokens]
    assert places == [*range(2992, 3009), *range(4991, 5000)]
    assert page.text.count("…") == 2
    recited = Page(replace(longer, margins=[1.0] * 5000)._repr_html_())
    assert len(recited.tokens) == MOST and recited.text.count("…") == 1


def test_a_run_begins_with_its_headline():
    result = tm.memorize(toy_model(), toy_memory(5), rank=1, steps=3)
    page = Page(result._repr_html_())
    assert page.text.strip().startswith("Not recited: ")
    assert page.rows[0][:2] == ["steps", "3"]
    loss = f"{result.report['final_loss']:.3f}"
    assert page.rows[1] == ["loss", loss, page.rows[1][2]] and len(page.tokens) == 5
    text = repr(result.show(Words()))
    assert text.startswith(f"{result!r}\n") and "‹ word" in text


@pytest.mark.parametrize("status", ["diverged", "oom", "interrupted"])
def test_runs_that_failed(status):
    whole = tm.memorize(toy_model(), toy_memory(5), rank=1, steps=3)
    judged = {"final_loss": None, "certified_fraction": None}
    result = Result(whole.report | judged | {"status": status}, whole.memories, whole.unit)
    assert {"diverged": "Diverged", "oom": "Out of memory", "interrupted": "Interrupted"}[
        status
    ] in Page(result._repr_html_()).text
    assert "no report" in Page(Result({}, [], whole.unit)._repr_html_()).text


def test_a_fit_has_its_law_and_its_picture(monkeypatch):
    fit = fit_rows([row | {"model": HOSTILE} for row in ROWS])[0][0]
    html = fit._repr_html_()
    page, law = Page(html), fit.law
    assert page.text.strip().startswith(
        f"{HOSTILE}, layer 2, site mlp, sft".replace("\x1b", "\\x1b")
    )
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["α, of the rank"][0] == f"{law.alpha:.4g}"
    assert rows["b"] == [f"{law.b:.4g}", "{:.3g} to {:.3g}".format(*law.ci["b"])]
    assert rows["power law"][1] == f"{law.r2:.3f}"
    assert f"·r<sup>{law.alpha:.2f}</sup>·ℓ<sup>−{law.beta:.2f}</sup> + " in html
    assert "No recall law: no row says" in page.text
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert base64.b64decode(data).startswith(b"\x89PNG") and len(html) < 400_000

    def fails(*_):
        raise tm.TinymemError("pictures need matplotlib")

    monkeypatch.setattr(notebook, "plot_fit", fails)
    assert "img" not in Page(fit._repr_html_()).tags
    alone = {row[0] for row in Page(law._repr_html_()).rows}
    assert alone == {"constant", "C", "α, of the rank", "β, of the length", "b", "law", "power law"}
    fixed = fit_rows(ROWS, offset=False)[0][0].law
    assert "b" not in {row[0] for row in Page(fixed._repr_html_()).rows}


def test_a_recall_law_and_plans():
    recall = fit_recall([0.01, 0.02, 0.03, 0.04], [1, 1, 0, 0], [512] * 4, parameters_per_rank=512)
    length = f"{float(recall.half(512)) * 512:,.0f}"
    assert Page(recall._repr_html_()).rows[1] == ["1", length, "–"]
    plan = plan_rank(fit_rows(ROWS)[0][0], 100, loss=6.0)
    page = Page(plan._repr_html_())
    assert page.text.strip().startswith(f"rank {plan.rank} for 100 tokens, at 6.000 nats")
    chance = f"{100 * plan.by_rank[plan.rank]:.0f} % of fresh runs"
    assert [f"rank {plan.rank}", chance] in page.rows
    assert [row[1] for row in page.rows if row[0] == "careful"] == plan.warnings


def test_what_one_line_says_has_no_html():
    assert toy_memory(5)._repr_html_() is None
    assert tm.Unit.create(toy_model(), 1)._repr_html_() is None
    assert SURE._repr_html_() is not None
