"""What a run records. Oracles: a record kept by hand, and probabilities worked out from losses."""

import math

import numpy as np
import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.experiment.probe import memorize
from tinymem.training import record as records
from tinymem.training.record import Record, Training
from tinymem.training.trainer import StepResult

CPU = torch.device("cpu")


def step(*means: float, certified: float = 0.5) -> StepResult:
    """A step of so many runs with these mean losses, and two tokens each."""
    mean = torch.tensor(means)
    losses = torch.stack([mean - 0.25, mean + 0.25], 1)
    shares = torch.full_like(mean, certified)
    others = mean, shares, shares / 2, -mean, mean.sum()
    return StepResult(losses, torch.ones_like(losses), -losses, *others)


def test_a_record_by_hand(monkeypatch):
    """Three runs over four steps; the second ends after two steps, the others after three."""
    monkeypatch.setattr(records, "SNAPSHOTS", 2)  # every second step
    record = Record(4, ["sft"] * 3, CPU)
    record.add(step(5.0, 6.0, 7.0), whole=True)
    record.add(step(4.0, 5.0, 6.0, certified=1.0), whole=True)
    assert record.recent(2) == ([4.5, 5.5, 6.5], [0.75] * 3, [0.375] * 3, [-5, -6, -7])
    assert record.recent(1)[0] == [4, 5, 6]
    record.stop([1], 2, "diverged")
    assert record.running == [0, 2]
    record.add(step(3.0, 5.0), whole=True)
    assert record.recent(1) == ([3.0, 5.0], [0.5, 0.5], [0.25, 0.25], [-3, -5])
    first, second, third = record.finish(3, "interrupted")
    assert (first.losses, third.losses) == ([5.0, 4.0, 3.0], [7.0, 6.0, 5.0])
    assert second.losses == [6.0, 5.0] and second.certified == [0.5, 1.0]
    assert [run.steps for run in (first, second, third)] == [3, 2, 3]
    assert [run.status for run in (first, second, third)] == [
        *("interrupted", "diverged", "interrupted")
    ]
    assert [n for n, _ in first.trace] == [n for n, _ in third.trace] == [0, 2]
    assert [n for n, _ in second.trace] == [0]
    assert third.trace[1][1] == pytest.approx([math.exp(-4.75), math.exp(-5.25)])
    assert third.margin_trace == [(0, [-6.75, -7.25]), (2, [-4.75, -5.25])]


def test_a_step_on_some_of_the_memories_leaves_no_trace_of_tokens():
    record = Record(2, ["sft"], CPU)
    record.add(step(5.0), whole=False)
    (run,) = record.finish(1, "ok")
    assert run.losses == [5.0] and run.trace == run.margin_trace == []


def test_the_trace_holds_the_probability_of_every_token():
    result = memorize(toy_model(), toy_memory(12), rank=4, steps=400, lr=0.05)
    steps = [n for n, _ in result.training.trace]
    assert steps == list(range(0, 400, 2)) and all(len(p) == 12 for _, p in result.training.trace)
    for n, p in result.training.trace[::50]:
        assert math.isclose(-np.log(p).mean(), result.training.losses[n], rel_tol=1e-4)


@pytest.mark.parametrize(
    ("losses", "converged"),
    [
        ([1.0] * 100, True),
        ([2 - 0.01 * step for step in range(100)], False),  # falls by 0.3 over the last 30 steps
        ([5 - 0.05 * min(step, 69) for step in range(100)], True),  # flat from step 69 on
        ([0.5], True),
        ([], False),
    ],
)
def test_converged_means_that_the_loss_has_stopped_falling(losses, converged):
    assert Training(losses=losses, steps=len(losses)).converged is converged
    assert not Training(status="interrupted", losses=losses).converged


def test_margin_has_converged_when_no_more_tokens_become_right():
    """The loss at T = 1 rises while the temperature falls, and says nothing."""
    rising, still = [n / 100 for n in range(100)], [0.9] * 100
    assert not Training("margin", losses=still, recited=rising).converged
    assert Training("margin", losses=rising[::-1], recited=still).converged
    assert not Training("sft", losses=rising[::-1], recited=still).converged


def still(losses: list[float], wrong: list[float]) -> bool:
    """Whether a run with these losses and shares of wrong tokens stands still."""
    record = Record(len(losses), ["sft"], CPU)
    for loss, share in zip(losses, wrong, strict=True):
        one = step(loss)
        record.add(one._replace(recited=torch.tensor([1 - share])), whole=False)
    return record.stands_still()


def test_standing_still_by_hand():
    """The second half must lower the loss by 5 %, or the wrong tokens by 25 %, of what is left."""
    same, n = [0.5] * 120, 60
    assert still([2.0] * n + [1.95] * n, same)  # 2.0 < 1.05 · 1.95
    assert not still([2.0] * n + [1.9] * n, same)  # 2.0 > 1.05 · 1.9 = 1.995
    assert not still([2.0] * n + [9.0, 1.9] * (n // 2), same)  # the lowest counts, not a trial
    assert not still([2.0] * 2 * n, [0.5] * n + [0.39] * n)  # 0.5 > 1.25 · 0.39
    assert still([2.0] * 2 * n, [0.5] * n + [0.41] * n)
    assert not still([2.0] * 99, [0.5] * 99)  # too early to tell
