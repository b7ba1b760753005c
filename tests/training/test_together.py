"""Several runs trained as one batch. Oracle: each run trained alone."""

import itertools
import math

import pytest

from tests.toy import toy_memory, toy_model
from tinymem.data.batch import Batch
from tinymem.experiment.probe import memorize, memorize_together
from tinymem.training.recipe import Recipe
from tinymem.training.train import train
from tinymem.training.trainer import Trainer
from tinymem.unit.lora import Unit

MIXED = [  # rank, method
    *((1, "sft"), (3, "memft-ot"), (8, "memft-sw")),
    *((2, "memft-sw"), (8, "sft"), (3, "margin"), (8, "margin")),
]
LENGTH = 60  # target tokens: more than the first window of memft-sw


def recipes(**fields) -> list[Recipe]:
    """Seven runs with different ranks, methods, seeds, learning rates and clips."""
    out = []
    for n, (rank, method) in enumerate(MIXED):
        mixed = {"rank": rank, "method": method, "seed": n % 2, "lr": (0.01, 0.02)[n % 2]}
        out.append(Recipe(**({"steps": 25, "clip": (0.3, 1.0)[n % 2]} | mixed | fields)))
    return out


def largest_difference(results, others) -> float:
    """The largest difference between the losses of two lists of runs, in nats."""
    return max(
        abs(a - b)
        for one, other in zip(results, others, strict=True)
        for a, b in zip(one.training.losses, other.training.losses, strict=True)
    )


def together_and_alone(model, memories, runs):
    """Results of the runs as one batch, and of each run by itself."""
    together = memorize_together(model, memories, runs)
    return together, [memorize(model, m, recipe=r) for m, r in zip(memories, runs, strict=True)]


@pytest.mark.parametrize("sites", [("mlp",), ("q_proj", "down_proj")])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_runs_in_a_batch_equal_runs_alone(sites, dropout):
    runs = recipes(sites=sites, dropout=dropout)
    memories = [toy_memory(LENGTH, seed=recipe.seed) for recipe in runs]
    together, alone = together_and_alone(toy_model(), memories, runs)
    assert largest_difference(together, alone) < 1e-5
    for one, other in zip(together, alone, strict=True):
        for name, value in other.report.items():
            close = isinstance(value, float) and name != "wall_seconds"
            expected = pytest.approx(value, rel=1e-3, abs=1e-5) if close else value
            assert one.report[name] == expected or name == "wall_seconds", name
        assert one.training.losses[-1] < one.training.losses[0]


def test_runs_of_several_memories():
    runs = [r for r in recipes() if r.method != "memft-sw"]  # trains alone: a curriculum
    memories = [
        [toy_memory(5, seed=n), toy_memory(9, prompt=2, seed=n + 50)] for n in range(len(runs))
    ]
    together, alone = together_and_alone(toy_model(), memories, runs)
    assert largest_difference(together, alone) < 1e-5


@pytest.mark.parametrize(("stop", "field"), [("certified", "certified"), ("recited", "verbatim")])
def test_finished_runs_leave_and_the_others_go_on(stop, field):
    runs = recipes(steps=120, lr=0.05, **{f"stop_when_{stop}": True})
    memories = [toy_memory(12, seed=recipe.seed) for recipe in runs]
    together, alone = together_and_alone(toy_model(), memories, runs)
    steps = [result.report["steps"] for result in together]
    assert steps == [result.report["steps"] for result in alone]
    assert len(set(steps)) > 2 and max(steps) == 120
    assert all(r.report[field] for r in together if r.report["steps"] < 120)
    assert [len(r.training.losses) for r in together] == steps


def test_a_diverged_run_leaves_and_the_others_keep_their_windows(monkeypatch):
    """The second run becomes NaN in step 8, when the windows of memft-sw have grown."""
    model, runs = toy_model(), recipes(method="memft-sw", steps=30)[:5]
    memories = [toy_memory(110, seed=n) for n in range(5)]
    units = [Unit.create(model, r.rank, seed=r.seed) for r in runs]
    updates, real = itertools.count(), Trainer.update

    def update(self, share):
        real(self, share)
        if next(updates) == 8:
            self.stack.parameters()[1].data[1] = math.nan

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", update)
        batch = Batch(memories, model.config.context, model.device)
        done = train(model, units, batch, runs)
    assert [run.status for run in done] == ["ok", "diverged", "ok", "ok", "ok"]
    assert [run.steps for run in done] == [30, 9, 30, 30, 30]
    for n in (0, 2, 3, 4):
        alone = memorize(model, memories[n], recipe=runs[n]).training
        assert done[n].losses == pytest.approx(alone.losses, abs=1e-5)
