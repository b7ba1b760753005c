"""Pages: what is in the file. test_page_in_browser.py opens them.

Oracles: Python's HTML parser, and numpy's own rounding of the numbers that are packed into bytes.
"""

import base64
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import tokenizers

import tinymem as tm
from tests.show.pages import LIKELIEST, HostileTokenizer, hostile_result
from tinymem.show.page import PARTS, write_page
from tinymem.show.run import run_page
from tinymem.show.tokens import pack_margins, pack_p, running_text, short
from tinymem.tools.likeliest import likeliest


class Reader(HTMLParser):
    """Collects tags, and the text of each element of one id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.inside = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = dict(attrs).get("id") == "data"

    def handle_data(self, text):
        self.data += text if self.inside else ""

    def handle_endtag(self, tag):
        self.inside = False


def read(path):
    found = Reader(path.read_text(encoding="utf-8"))
    return found, json.loads(found.data)


def test_no_text_of_the_data_or_title_can_become_an_element(tmp_path):
    evil = "</script><img src=x onerror=alert(1)> <!-- &amp; \u2028 {{data}}"
    write_page(tmp_path / "a.html", evil, ["common.js"], {"a": [evil, math.nan]})
    found, data = read(tmp_path / "a.html")
    assert data == {"a": [evil, None]}
    assert "img" not in found.tags and found.tags.count("script") == 2
    text = (tmp_path / "a.html").read_bytes()
    assert text.count(b"\\u2028") == 1  # in the data, where a script could not hold it as it is
    assert b"http" not in text.replace(b"http-equiv", b"").replace(
        b"http://www.w3.org/2000/svg", b""
    )


def test_a_page_is_small_without_its_data():
    assert sum(path.stat().st_size for path in PARTS.iterdir()) < 300_000  # of all pages together


def test_bytes_keep_their_side_of_one_half_and_of_zero():
    edges = [0.0, 1e-30, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 1.0, math.nan]
    p = np.array([*edges, *np.random.default_rng(0).random(500)])
    levels = np.frombuffer(base64.b64decode(pack_p(p)), np.uint8).astype(float)
    known = ~np.isnan(p)
    assert ((levels == 0) == ~known).all()
    assert ((levels >= 128) == (p > 0.5)).all()
    assert np.abs((levels - 0.5) / 254 - p)[known].max() <= 0.5 / 254 + 1e-12
    margins = np.array([0.0, 1e-30, -1e-30, 20, -20, math.nan, *np.linspace(-20, 20, 501)])
    packed, largest = pack_margins(margins)
    levels = np.frombuffer(base64.b64decode(packed), np.int8).astype(float)
    known = ~np.isnan(margins)
    assert largest == 20 and ((levels == -128) == ~known).all()
    assert (np.sign(levels) == np.sign(margins))[known].all()
    back = np.sign(levels) * largest * ((np.abs(levels) - 0.5) / 127) ** 2
    assert np.abs(back - margins)[known].max() < 0.17
    near = known & (np.abs(margins) < 1)
    assert np.abs(back - margins)[near].max() < 0.04


@pytest.mark.parametrize("limit", [0, 0.5])
def test_short_numbers_stay_on_their_side(limit):
    for value in (limit, np.nextafter(limit, 1), np.nextafter(limit, -1), limit + 1 / 3):
        assert (short(float(value), limit) > limit) == (value > limit)
    assert short(0.50000006, 0.5) == 0.50000006 and short(1 / 3, 0.5) == 0.333333


def test_a_space_that_a_tokenizer_leaves_out_is_there():
    """Oracle: the text of several tokens, in which the tokenizer leaves nothing out."""
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁the": 0, "▁cat": 1, "s": 2}, "s"))
    core.decoder = tokenizers.decoders.Metaspace()
    tokenizer = tm.Tokenizer(core, None, {}, "here", 3)
    assert tokenizer.decode([1]) == "cat"
    text = "".join(running_text(tokenizer, i) for i in (0, 1, 2))
    assert text == " " + tokenizer.decode([0, 1, 2]) == " the cats"


def test_the_likeliest_tokens_are_those_of_the_verdict():
    model, tokenizer = tm.load("tiny")
    memories = [tm.random_memory(tokenizer, n, seed=n) for n in (5, 9)]
    found, verdict = likeliest(model, memories, k=3), tm.judge(model, memories)
    assert [len(some) for some in found] == [3] * 14
    assert [some[0][0] for some in found] == verdict.predicted
    for some, t, p, m in zip(
        found, verdict.targets, verdict.probabilities, verdict.margins, strict=True
    ):
        assert [p for _, p in some] == sorted((p for _, p in some), reverse=True)
        best = some[1][1] if some[0][0] == t else some[0][1]
        assert math.log(p / best) == pytest.approx(m, abs=1e-4)
        assert dict(some).get(t, p) == pytest.approx(p, rel=1e-4)


def test_the_data_of_a_run_are_its_report_and_its_verdict(tmp_path):
    result = hostile_result()
    run_page(tmp_path / "a.html", result, HostileTokenizer(), LIKELIEST)
    found, data = read(tmp_path / "a.html")
    assert "img" not in found.tags
    assert {name: value for name, value, *_ in data["fields"]} == result.report
    assert all(meaning for *_, meaning in data["fields"])
    verdict, tokens = result.verdict, data["tokens"]
    assert tokens["margins"] == pytest.approx(verdict.margins, rel=1e-5)
    assert tokens["p"] == pytest.approx(verdict.probabilities, rel=1e-5)
    assert tokens["targets"] == verdict.targets and tokens["decoded"] == verdict.decoded
    assert data["trace"]["steps"] == [step for step, _ in result.training.trace]
    assert data["course"]["loss"] == pytest.approx(result.training.losses, rel=1e-5)
