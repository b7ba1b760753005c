"""One step of several runs: what it finds, runs that leave, and what stays attached."""

import dataclasses
import math

import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.data.batch import Batch
from tinymem.training import memft
from tinymem.training.loss import TokenLoss
from tinymem.training.prefix import Prefix
from tinymem.training.recipe import Recipe
from tinymem.training.train import train
from tinymem.training.trainer import Trainer
from tinymem.unit.lora import Unit

LONG = 110  # target tokens: more than the window of memft-sw, which begins with 50


def make_trainer(recipes, length: int = 8, memories: int = 1) -> Trainer:
    """Each run has its own memories and its own unit."""
    model = toy_model()
    own = [toy_memory(length, seed=n) for n in range(len(recipes) * memories)]
    units = [Unit.create(model, r.rank, seed=r.seed) for r in recipes]
    batch = Batch(own, model.config.context, model.device)
    recipes = [dataclasses.replace(r, lr=r.lr or 0.02) for r in recipes]
    return Trainer(model, units, batch, recipes)


def take_steps(trainer: Trainer, count: int) -> list[torch.Tensor]:
    """Train so many steps; returns the weights [K, N] of each."""
    weights = []
    for _ in range(count):
        weights.append(trainer.gradient().weights.clone())
        trainer.update()
    return weights


# --- What a step finds ---------------------------------------------------------------------------


def test_the_result_of_a_step_is_that_of_its_losses():
    trainer = make_trainer([Recipe(rank=2), Recipe(rank=3, method="memft-ot")])
    for _ in range(60):
        found = trainer.gradient()
        if found.certified[1] > 0:
            break
        trainer.update()
    assert found.losses.shape == found.weights.shape == (2, 8)
    assert torch.allclose(found.mean, found.losses.mean(1))
    shares = [sum(p > 0.5 for p in row) / 8 for row in (-found.losses).exp().tolist()]
    assert found.certified.tolist() == pytest.approx(shares) and 0 < shares[1] < 1
    weighted = (found.weights * found.losses).sum(1) / found.weights.sum(1)
    assert found.loss.item() == pytest.approx(weighted.sum().item(), rel=1e-5)
    assert found.weights[1].tolist() == [float(loss > math.log(2)) for loss in found.losses[1]]


def test_a_token_with_probability_one_half_is_not_certified(monkeypatch):
    """At p = ½ another token may be as likely, and greedy decoding may choose that one."""
    trainer = make_trainer([Recipe(rank=1)], length=4)
    real = TokenLoss.__call__
    just_below = torch.tensor(memft.LN2).nextafter(torch.tensor(0.0)).item()
    chosen = torch.tensor([memft.LN2, memft.LN2, just_below, 2.0])

    def losses(*args):
        found = real(*args)
        return found._replace(
            losses=chosen, objective=found.objective - found.objective.detach() + chosen
        )

    monkeypatch.setattr(TokenLoss, "__call__", losses)
    found = trainer.gradient()
    assert torch.equal(found.losses[0], chosen) and found.certified.item() == 0.25


def test_given_weights_replace_those_of_the_method():
    trainer = make_trainer([Recipe(rank=2, method="memft-ot")])
    given = torch.zeros(1, 8)
    given[0, 3] = 0.5
    found = trainer.gradient(weights=given)
    assert torch.equal(found.weights, given)
    assert found.loss.item() == pytest.approx(found.losses[0, 3].item())


@pytest.mark.parametrize("zero_active", ["sft", "zero"])
def test_without_a_token_above_the_threshold_the_rule_of_the_recipe_decides(zero_active):
    recipe = Recipe(rank=8, method="memft-ot", zero_active=zero_active, lr=0.05)
    trainer = make_trainer([Recipe(rank=8, method="memft-ot", lr=0.05), recipe], length=4)
    for _ in range(300):
        if trainer.gradient().certified.min() == 1:
            break
        trainer.update()
    found = trainer.gradient()
    assert found.weights.tolist() == [[1.0] * 4, [float(zero_active == "sft")] * 4]
    B = trainer.stack.parameters()[1]
    assert B.grad[0].any() and B.grad[1].any() == (zero_active == "sft")


# --- Runs that leave -----------------------------------------------------------------------------


def test_the_window_goes_on_from_step_to_step():
    """Weights of memft-sw, worked out from the losses with the window carried by hand."""
    trainer = make_trainer([Recipe(rank=2, method="memft-sw", lr=0.01)], length=LONG)
    state, extents = None, []
    for _ in range(14):
        found = trainer.gradient()
        logits = trainer.model.lm_head(trainer.prefix.states(trainer.prefix.batch))
        correct = (logits.argmax(-1) == trainer.prefix.batch.targets)[None]
        state = memft.first_window(found.losses) if state is None else state
        expected, state = memft.memft_sw_weights(found.losses, correct, state)
        assert torch.allclose(found.weights, expected, atol=1e-6)
        extents.append(state.extent.item())
        trainer.update()
    assert extents == [1, 1, 1, 1.5, 2, 2.5, 3, 3.5, *[4] * 6]  # of windows of 50 tokens


def test_the_others_keep_their_windows_when_a_run_leaves():
    recipes = [Recipe(rank=n, method="memft-sw", lr=0.01) for n in (1, 2, 3)]
    whole, part = make_trainer(recipes, LONG), make_trainer(recipes, LONG)
    take_steps(whole, 8)
    take_steps(part, 8)
    part.select([0, 2])
    assert part.weigh.window.extent.max() > 1  # a window that has grown is carried on
    for expected, found in zip(take_steps(whole, 6), take_steps(part, 6), strict=True):
        assert torch.allclose(found, expected[[0, 2]], atol=1e-3)


def test_what_is_beyond_a_units_own_rank_stays_zero():
    ranks = (1, 3, 8)
    trainer = make_trainer([Recipe(rank=rank) for rank in ranks])
    take_steps(trainer, 5)
    A, B = trainer.stack.parameters()
    for n, rank in enumerate(ranks):
        assert not A[n, :, rank:].any() and not B[n, rank:].any()
        assert A[n, :, :rank].all() and B[n, :rank].all()


# --- Attaching -----------------------------------------------------------------------------------


def test_close_writes_the_values_and_leaves_no_unit_attached():
    trainer = make_trainer([Recipe(rank=1), Recipe(rank=2)])
    units = trainer.stack.units
    take_steps(trainer, 3)
    assert not any(unit.parameters()[1].any() for unit in units)
    trainer.close()
    assert all(unit.parameters()[1].any() for unit in units)
    Unit.create(trainer.model, 1).attach(trainer.model)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()]
)
def test_an_error_while_activations_are_cached_leaves_no_unit_attached(monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(Prefix, "_below", fail)
    model = toy_model()
    batch = Batch([toy_memory(8)], model.config.context, model.device)
    with pytest.raises(type(error)):
        train(model, [Unit.create(model, 2)], batch, [Recipe(rank=2)])
    Unit.create(model, 1).attach(model)
