"""Several runs trained as one batch. Oracle: each run trained alone."""

import dataclasses
import math

import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.base.progress import Progress
from tinymem.data.batch import Batch
from tinymem.errors import RecipeError
from tinymem.experiment.probe import memorize, memorize_together
from tinymem.training import memft, prefix
from tinymem.training.prefix import Prefix
from tinymem.training.recipe import Recipe
from tinymem.training.train import train
from tinymem.training.trainer import Trainer
from tinymem.unit.lora import Unit


def recipes(**fields) -> list[Recipe]:
    """Runs with different ranks, methods, seeds, learning rates and clips."""
    out = []
    for n, (rank, method) in enumerate((r, m) for r in (1, 3, 8) for m in memft.METHODS):
        mixed = {"rank": rank, "method": method, "seed": n % 2, "lr": (0.01, 0.02)[n % 2]}
        out.append(Recipe(**({"steps": 50, "clip": (0.3, 1.0)[n % 2]} | mixed | fields)))
    return out


def farthest(ones, others) -> float:
    """The largest difference between the losses of two runs, in nats."""
    pairs = [
        zip(a.training.losses, b.training.losses, strict=True)
        for a, b in zip(ones, others, strict=True)
    ]
    return max(abs(a - b) for pair in pairs for a, b in pair)


@pytest.mark.parametrize("sites", [("mlp",), ("q_proj", "down_proj")])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_batched_equals_alone(sites, dropout):
    model, runs = toy_model(), recipes(sites=sites, dropout=dropout)
    memories = [toy_memory(24, seed=recipe.seed) for recipe in runs]
    together = memorize_together(model, memories, runs)
    alone = [memorize(model, m, recipe=r) for m, r in zip(memories, runs, strict=True)]
    assert farthest(together, alone) < 1e-5
    for one, other in zip(together, alone, strict=True):
        for name, value in other.report.items():
            if name != "wall_seconds":
                near = (
                    pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value
                )
                assert one.report[name] == near, name
        assert one.training.losses[-1] < one.training.losses[0]


def test_runs_of_several_memories():
    model, runs = toy_model(), recipes()
    runs = [r for r in runs if r.method != "memft-sw"]  # trains alone: a curriculum
    memories = [
        [toy_memory(5, seed=n), toy_memory(9, prompt=2, seed=n + 50)] for n in range(len(runs))
    ]
    together = memorize_together(model, memories, runs)
    alone = [memorize(model, m, recipe=r) for m, r in zip(memories, runs, strict=True)]
    assert farthest(together, alone) < 1e-5


def test_those_that_are_certified_leave_and_the_others_go_on():
    model, runs = toy_model(), recipes(steps=200, lr=0.03, stop_when_certified=True)
    memories = [toy_memory(16, seed=recipe.seed) for recipe in runs]
    together = memorize_together(model, memories, runs)
    alone = [memorize(model, m, recipe=r) for m, r in zip(memories, runs, strict=True)]
    steps = [result.report["steps"] for result in together]
    assert steps == [result.report["steps"] for result in alone]
    assert len(set(steps)) > 2 and max(steps) == 200
    assert all(r.report["certified"] for r in together if r.report["steps"] < 200)
    assert [len(r.training.losses) for r in together] == steps


def test_one_that_diverges_leaves_and_the_others_go_on():
    model, runs = toy_model(), recipes(method="sft")
    memories = [toy_memory(24)] * len(runs)
    units = [Unit.create(model, r.rank, seed=r.seed) for r in runs]
    with torch.no_grad():
        units[4].parameters()[1].fill_(math.nan)
    done = train(model, units, Batch(memories, 128, model.device), runs, lrs=[r.lr for r in runs])
    assert [run.status for run in done] == ["ok"] * 4 + ["diverged"] + ["ok"] * 4
    assert (done[4].steps, done[5].steps) == (0, 50)
    whole = memorize(model, memories[8], recipe=runs[8]).training
    assert done[8].losses == pytest.approx(whole.losses, abs=1e-5)


def test_what_is_beyond_a_units_own_rank_stays_zero():
    model, runs = toy_model(), recipes(method="sft")
    units = [Unit.create(model, r.rank, seed=r.seed) for r in runs]
    batch = Batch([toy_memory(8)] * len(runs), 128, model.device)
    trainer = Trainer(model, units, batch, runs, [r.lr for r in runs])
    for _ in range(5):
        trainer.gradient()
        trainer.update()
    for n, recipe in enumerate(runs):
        a, b = trainer.stack.parameters()
        assert not a[n, :, recipe.rank :].any() and not b[n, recipe.rank :].any()
        assert a[n, :, : recipe.rank].all()
    trainer.close()
    Unit.create(model, 1).attach(model)  # nothing was left attached


def test_what_cannot_train_together_is_refused():
    model, base = toy_model(), Recipe(steps=3)
    for other, length in (
        (dataclasses.replace(base, steps=4), 5),
        (dataclasses.replace(base, dropout=0.1), 5),
        (dataclasses.replace(base, optimizer="lbfgs"), 5),
        (base, 6),
    ):
        with pytest.raises(RecipeError, match="cannot be trained together"):
            memorize_together(model, [toy_memory(5), toy_memory(length)], [base, other])


def test_ctrl_c_keeps_every_run():
    class Stops(Progress):
        def training(self, done, loss, certified):
            if done == 0.4:
                raise KeyboardInterrupt

    results = memorize_together(toy_model(), [toy_memory(8)] * 9, recipes(), progress=Stops())
    assert [(r.report["status"], r.report["steps"]) for r in results] == [("interrupted", 20)] * 9
    assert all(r.unit.parameters()[1].any() for r in results)


def test_the_same_sequence_is_computed_once(monkeypatch):
    rows, below = [], Prefix._below
    monkeypatch.setattr(
        Prefix, "_below", lambda self, ids: rows.append(len(ids)) or below(self, ids)
    )
    model = toy_model()
    memories = [toy_memory(8, seed=n % 2) for n in range(6)]
    batch = Batch(memories, 128, model.device)
    cached = Prefix(model, Unit.create(model, 2).attach(model), batch)
    assert sum(rows) == 2 and cached.h.shape[0] == 6
    assert torch.equal(cached.h[0], cached.h[2]) and not torch.equal(cached.h[0], cached.h[1])


def test_computing_layers_again_changes_nothing_and_keeps_less(monkeypatch):
    def run() -> tuple[list[float], int]:
        kept = 0

        def pack(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses = memorize(
                toy_model(layers=8), toy_memory(24), rank=2, steps=20, lr=0.02
            ).training.losses
        return losses, kept

    whole, kept = run()
    monkeypatch.setattr(prefix, "ACTIVATION_BUDGET", {"cpu": 0})
    again, less = run()
    assert again == pytest.approx(whole, abs=1e-6) and less < kept
