"""The library agrees with the paper on one page: losses, weights, verdict and law are the same.

tutorials/00_the_whole_paper.py is an independent implementation in plain torch: full forward
passes, torch's own optimizer, decoding without a cache. Both write the same small memories. The
runs are short, because rounding errors grow with every step; the largest difference seen is 4e-6.
"""

import ast
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tinymem as tm
from tinymem.training import margin
from tinymem.training.memft import memft_ot_weights

TUTORIALS = Path(__file__).parents[2] / "tutorials"
PAGE = TUTORIALS / "00_the_whole_paper.py"
CLOSE = {"rtol": 0, "atol": 1e-5}  # nats, probabilities, and the entries of A and B
LENGTH = 32  # target tokens
RUNS = {  # method, rank, steps, seed, certified, recited
    "sft too small": ("sft", 2, 40, 0, False, False),
    "sft certified": ("sft", 8, 40, 3, True, True),
    "memft-ot recited": ("memft-ot", 4, 60, 0, False, True),
    "memft-ot certified": ("memft-ot", 8, 40, 3, True, True),
    "margin too small": ("margin", 1, 40, 0, False, False),
    "margin recited": ("margin", 3, 60, 0, False, True),
}


def load_page():
    spec = importlib.util.spec_from_file_location("the_whole_paper", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page = load_page()


def test_the_last_temperature_is_the_librarys():
    assert page.END == margin.END


@pytest.fixture(scope="module")
def base():
    return tm.load("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=RUNS.values(), ids=RUNS)
def run(request, base):
    """The settings of a run, its memory, and its results by the page and by the library."""
    model, tokenizer = base
    method, rank, steps, seed, *_ = request.param
    memory = tm.random_memory(tokenizer, LENGTH, seed=seed)
    prompt, target = (torch.tensor(ids) for ids in (memory.prompt_ids, memory.target_ids))
    by_page = page.memorize(model, prompt, target, rank, method, steps, seed)
    by_library = tm.memorize(model, memory, rank=rank, method=method, steps=steps, seed=seed)
    return request.param, memory, by_page, by_library


def close(actual, expected):
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), **CLOSE)


def test_the_losses_of_every_step(run):
    (_, _, steps, *_), _, (_, history, *_), result = run
    close(result.training.losses, history.mean(1))
    assert [step for step, _ in result.training.trace] == list(range(steps))
    close([p for _, p in result.training.trace], (-history).exp())  # of each token


def test_the_trained_unit(run):
    _, _, (unit, *_), result = run
    for ours, theirs in zip(result.unit.parameters(), (unit.A, unit.B), strict=True):
        assert theirs.abs().max() > 0.1  # B started at zero
        close(ours.detach(), theirs.detach())


def test_the_weights_of_every_step(run):
    (method, *_, certified, _), _, (_, history, *_), _ = run
    below = history > page.LN2
    if method == "memft-ot":  # some weights are 0; and all are 1 once every token is above ½
        assert (below.any(1) & ~below.all(1)).any() and below.any(1).all() != certified
    for losses in history:
        assert torch.equal(memft_ot_weights(losses), page.memft_ot_weights(losses))


def test_the_verdict(run, base):
    (*_, certified, recited), memory, (_, history, losses, predicted, decoded), result = run
    assert page.certified(losses) == certified
    assert (decoded.tolist() == list(memory.target_ids)) == recited
    result.unit.attach(base[0])
    verdict = tm.judge(base[0], memory)
    result.unit.detach()
    for ours in (verdict, result.verdict):
        close(ours.losses, losses)
        close(ours.probabilities, (-losses).exp())
        assert (ours.predicted, ours.decoded) == (predicted.tolist(), decoded.tolist())
        assert (ours.certified, ours.recall_exact) == (certified, recited)
    close(result.report["base_loss"], history[0].mean().item())


def test_the_law_of_the_recorded_grid():
    path = TUTORIALS / "reproduction" / "rows" / "tiny.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = ("rank", "length", "delta_loss", "final_loss")
    *cells, finals = (np.array([row[name] for row in rows], float) for name in names)
    fitted = finals > page.LN2
    law = tm.fit_law(*cells, saturated=~fitted, offset=False)
    constants = page.fit_law(*(column[fitted] for column in cells))
    assert (law.C, law.alpha, law.beta) == pytest.approx(constants, rel=1e-9)
    assert law.b == 0


def test_the_page_recovers_planted_constants():
    ranks, lengths = (axis.ravel() for axis in np.meshgrid([1, 2, 4], [64, 100, 200]))
    deltas = 8 * ranks**0.5 / lengths**0.25
    assert page.fit_law(ranks, lengths, deltas) == pytest.approx((8, 0.5, 0.25), rel=1e-9)


def test_the_page_is_short_and_takes_only_the_base_model_from_the_library():
    text = PAGE.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 290
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "tm"
    }
    assert used == {"load", "Model"}
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
    ]
    assert [name for name in modules if name.startswith("tinymem")] == ["tinymem"]
