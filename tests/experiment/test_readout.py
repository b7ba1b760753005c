"""The readout temperature. Oracles: a fine grid over T with torch's cross-entropy, on random logits
and on those of transformers. By hand: two logits. Property: scaled logits scale T alone.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.checkpoints import build, draw_ids
from tests.toy import toy_memory, toy_model
from tinymem.base.checkpoint import load
from tinymem.data.memory import Memory
from tinymem.experiment.probe import memorize
from tinymem.experiment.readout import MAX_T, MIN_T, readout
from tinymem.experiment.recall import judge


def by_grid(logits, targets) -> tuple[float, float]:
    """The best of 4,001 temperatures from 0.01 to 100, each 0.23 % above the one before."""
    grid = torch.logspace(-2, 2, 4001).tolist()
    losses = [F.cross_entropy(logits / T, targets).item() for T in grid]
    best = min(range(len(grid)), key=losses.__getitem__)
    return grid[best], losses[best]


def random_states(seed: int, scale: float = 1.0):
    """x [60, 16], W [50, 16], and targets that are the argmax of noisy logits."""
    generator = torch.Generator().manual_seed(seed)
    x, head = (torch.randn(n, 16, generator=generator) for n in (60, 50))
    logits = x @ head.T
    targets = (logits + scale * torch.randn(logits.shape, generator=generator)).argmax(-1)
    return x, head, targets


@pytest.mark.parametrize("scale", [0.3, 2.0, 8.0, 40.0])
def test_it_is_the_minimum_of_a_grid(scale):
    """The more noise there is, the higher is the temperature: from below 1 to above 10."""
    x, head, targets = random_states(seed=round(10 * scale), scale=scale)
    T, loss = readout(x, head, targets)
    best, least = by_grid(x @ head.T, targets)
    assert pytest.approx(best, rel=2e-3) == T
    assert loss == pytest.approx(least, abs=1e-5) and loss <= least + 1e-6


@pytest.mark.parametrize("gap", [0.01, 3.0, 200.0])
def test_by_hand(gap):
    """One logit leads by `gap`, and is the target three times of four: p = ¾ is best.

    So e^(gap / T) = 3, and the loss is the entropy of ¾ and ¼.
    """
    x, head = torch.tensor([[gap]] * 4), torch.tensor([[0.0], [1.0]])
    T, loss = readout(x, head, torch.tensor([1, 1, 0, 1]))
    assert pytest.approx(gap / math.log(3), rel=1e-3) == T
    assert loss == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-6)


def test_scaled_logits_have_a_scaled_temperature_and_the_same_loss():
    x, head, targets = random_states(0, 2.0)
    T, loss = readout(x, head, targets)
    for factor in (0.05, 20.0):
        assert readout(factor * x, head, targets) == pytest.approx((factor * T, loss), rel=1e-3)


def test_the_temperature_stays_within_its_bounds():
    x, head = torch.tensor([[1.0]] * 3), torch.tensor([[0.0], [1.0]])
    assert readout(x, head, torch.tensor([0, 0, 0]))[0] == pytest.approx(MAX_T, rel=0.01)
    x, head = torch.tensor([[1.0], [1.0], [-1e-5]]), torch.tensor([[0.0], [1.0]])
    assert readout(x, head, torch.tensor([1, 1, 1]))[0] >= MIN_T  # a tiny error, and large margins
    T, loss = readout(x * math.nan, head, torch.tensor([0, 1, 0]))
    assert math.isnan(loss) and T > 0  # and it returns


def test_chunks_and_a_rounded_head_do_not_change_it(monkeypatch):
    x, head, targets = random_states(1, 2.0)
    rounded = head.bfloat16()
    whole = readout(x, rounded.float(), targets)
    monkeypatch.setattr("tinymem.training.loss.CHUNK", 50 * 7)  # 7 rows at a time
    assert readout(x, rounded, targets) == pytest.approx(whole, rel=1e-5)


def test_of_a_run_it_is_lower_than_the_loss_and_absent_if_recited():
    for steps, recited in ((200, True), (20, False)):
        verdict = memorize(toy_model(), toy_memory(24), rank=8, steps=steps, lr=0.05).verdict
        assert verdict.verbatim == recited
        if recited:
            assert verdict.readout_temperature is None and verdict.calibrated_loss is None
        else:
            assert verdict.calibrated_loss < verdict.loss - 0.01


def test_margins_and_readout_are_those_of_transformers_logits(tmp_path):
    theirs = build(tmp_path, "qwen3", seed=3)
    model, _ = load(tmp_path, device="cpu")
    prompt, target = draw_ids(4, seed=7)[0], draw_ids(40, seed=8)[0]
    with torch.no_grad():
        logits = theirs(torch.cat([prompt, target])[None]).logits[0, 3:-1]
        target[::2] = logits[::2].argmax(-1)  # so that some tokens are right
        logits = theirs(torch.cat([prompt, target])[None]).logits[0, 3:-1]
    verdict = judge(model, Memory(prompt, target))
    expected = []
    for z, y in zip(logits.tolist(), target.tolist(), strict=True):
        expected.append(z[y] - max(value for token, value in enumerate(z) if token != y))
    assert verdict.margins == pytest.approx(expected, abs=1e-4)
    assert {m > 0 for m in expected} == {True, False}
    assert verdict.readout_temperature == pytest.approx(by_grid(logits, target)[0], rel=3e-3)
    assert verdict.calibrated_loss == pytest.approx(by_grid(logits, target)[1], abs=1e-4)
