"""The training loop. Oracle: a plain loop with full forward passes and without a cache."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.toy import toy_memory, toy_model
from tests.training.test_recipe import seen
from tinymem.base.progress import Progress
from tinymem.data.batch import Batch
from tinymem.experiment.probe import memorize
from tinymem.experiment.recall import judge
from tinymem.training import margin, memft, train as loop
from tinymem.training.loss import TokenLoss
from tinymem.training.recipe import METHODS, Recipe
from tinymem.training.train import train
from tinymem.unit.lora import Unit

LR = 0.05


def plain_loop(model, unit, memory, recipe):
    """The loop without any shortcut: full forward passes, and all logits.

    Returns (mean loss, weights w_t, window of memft-sw) of every step.
    """
    ids = torch.tensor([memory.prompt_ids + memory.target_ids])
    start, window, course = len(memory.prompt_ids), None, []
    optimizer = torch.optim.AdamW(unit.parameters(), lr=recipe.lr, weight_decay=0)
    for step in range(recipe.steps):
        logits = model(ids)[0, start - 1 : -1]
        losses = -logits.log_softmax(-1).gather(1, ids[0, start:, None]).squeeze(1)
        detached = losses.detach()
        T = margin.END ** (step / recipe.steps) ** 2 if recipe.method == "margin" else 1.0
        sharpened = -T * (logits / T).log_softmax(-1).gather(1, ids[0, start:, None]).squeeze(1)
        if recipe.method in ("sft", "margin"):
            weights = torch.ones_like(detached)
        elif recipe.method == "memft-ot":
            weights = memft.memft_ot_weights(detached, zero_active=recipe.zero_active)
        else:
            window = memft.first_window(detached) if window is None else window
            correct = logits.argmax(-1) == ids[0, start:]
            weights, window = memft.memft_sw_weights(detached, correct, window)
        course.append((detached.mean().item(), weights, window))
        loss = (weights * sharpened).sum() / max(weights.sum().item(), 1e-9)
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in unit.parameters()))
        for p in unit.parameters():
            p.grad.mul_(min(1.0, recipe.clip / (norm + 1e-6)))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * (1 - step / recipe.steps)
        optimizer.step()
    return course


def train_both_ways(memory, recipe):
    """(the course of `plain_loop`, the losses of `train`) from the same unit."""
    model = toy_model()
    plain, ours = (
        Unit.create(model, recipe.rank, sites=recipe.sites, layers=recipe.layers) for _ in range(2)
    )
    course = plain_loop(model, plain.attach(model), memory, recipe)
    plain.detach()
    batch = Batch([memory], model.config.context, model.device)
    (training,) = train(model, [ours], batch, [recipe])
    return course, training.losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("sites", "layers"), [(("mlp",), None), (("q_proj", "down_proj"), (1, 3))])
def test_the_losses_are_those_of_the_plain_loop(method, sites, layers):
    # Two LoRAs in each of two layers learn fast. With a lower rate AdamW amplifies rounding less.
    lr = LR if sites == ("mlp",) else 0.01
    recipe = Recipe(rank=3, steps=50, lr=lr, method=method, sites=sites, layers=layers)
    course, losses = train_both_ways(toy_memory(24), recipe)
    assert losses == pytest.approx([loss for loss, _, _ in course], abs=1e-5)
    assert losses[-1] < losses[0] - 1  # the run has learned


def test_the_window_of_a_memory_that_is_longer_than_the_window():
    """memft-sw on 120 tokens: the window begins with 50 and grows to 200, and then shrinks."""
    recipe = Recipe(rank=4, steps=60, lr=0.02, method="memft-sw")
    course, losses = train_both_ways(toy_memory(120), recipe)
    assert losses == pytest.approx([loss for loss, _, _ in course], abs=1e-5)
    extents = [window.extent.item() for _, _, window in course]
    anchors = [window.anchor.item() for _, _, window in course]
    assert max(extents) == 4 and len(set(anchors)) > 2
    shrunk = extents.index(4)
    assert min(extents[shrunk:]) == 1
    # Tokens beyond the first window have the floor as their weight, until the window has grown.
    beyond = course[0][1][int(anchors[0]) + 50 :]
    assert len(beyond) > 20 and torch.allclose(beyond, torch.tensor(0.01), atol=1e-4)


@pytest.mark.parametrize("zero_active", ["sft", "zero"])
def test_the_rule_for_steps_without_an_active_token(zero_active):
    recipe = Recipe(rank=8, steps=60, lr=LR, method="memft-ot", zero_active=zero_active)
    course, losses = train_both_ways(toy_memory(6), recipe)
    assert losses == pytest.approx([loss for loss, _, _ in course], abs=1e-5)
    sums = [weights.sum().item() for _, weights, _ in course]
    rule_used = sums.count(0) if zero_active == "zero" else sums[10:].count(6)
    assert rule_used > 10


def test_stop_when_certified_stops_early_and_is_true():
    options = {"rank": 8, "steps": 200, "lr": LR}
    slow = memorize(toy_model(), toy_memory(), **options).report
    fast = memorize(toy_model(), toy_memory(), **options, stop_when_certified=True).report
    assert slow["steps"] == 200 and fast["steps"] < 100
    assert fast["certified"] and fast["status"] == "ok"


def lowest_margin(model, memory, unit) -> float:
    """Of the target's tokens, by a full forward pass in float32."""
    unit.attach(model)
    with torch.no_grad():
        ids = torch.tensor([memory.prompt_ids + memory.target_ids])
        logits = model(ids, torch.float32)[0, len(memory.prompt_ids) - 1 : -1]
    unit.detach()
    return margin.margins(logits, torch.tensor(memory.target_ids)).min().item()


@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("method", ["sft", "margin"])
def test_stop_when_recited_stops_early_is_true_and_waits_for_clear_margins(
    monkeypatch, method, dtype, shift
):
    """shift: what the training of a base of this dtype and the verdict may differ by."""
    options = {"rank": 4, "steps": 200, "lr": LR, "method": method, "stop_when_recited": True}
    model, memory, steps = toy_model().to(dtype), toy_memory(24), []
    for thin in (0.2, 1.0):
        monkeypatch.setattr(loop, "thin_for", lambda dtype, thin=thin: thin)
        result = memorize(model, memory, **options)
        assert result.report["status"] == "ok"
        assert result.report["verbatim"] and result.report["recall_exact"]
        assert lowest_margin(model, memory, result.unit) > thin - shift
        steps.append(result.report["steps"])
    assert steps[0] < steps[1] < 200


def test_a_loss_that_is_not_finite_stops_the_run(monkeypatch):
    calls, real = iter(range(1000)), TokenLoss.__call__

    def losses(*args):
        factor = math.nan if next(calls) >= 25 else 1.0
        found = real(*args)
        return found._replace(losses=found.losses * factor, objective=found.objective * factor)

    monkeypatch.setattr(TokenLoss, "__call__", losses)
    report = memorize(toy_model(), toy_memory(), rank=2, steps=50).report
    # The loss is NaN from step 25 on, and the next check is at step 30.
    assert (report["status"], report["steps"], report["ended"]) == ("diverged", 30, None)
    assert report["final_loss"] is None and not report["certified"] and not report["converged"]


def test_ctrl_c_keeps_what_was_learned():
    class InterruptsAt20Percent(Progress):
        def training(self, step, steps, loss, certified, recited):
            if step == 0.2 * steps:
                raise KeyboardInterrupt

    options = {"rank": 4, "steps": 100, "lr": LR, "progress": InterruptsAt20Percent()}
    result = memorize(toy_model(), toy_memory(), **options)
    assert (result.report["status"], result.report["steps"]) == ("interrupted", 20)
    assert result.verdict is None and result.report["final_loss"] is None  # it answers at once
    assert len(result.training.losses) == 20 and result.training.losses[-1] < 3
    model = toy_model()
    result.unit.attach(model)
    assert judge(model, toy_memory()).loss < result.report["base_loss"] - 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sites", [("mlp",), ("q_proj", "down_proj")])
def test_minibatches_train_like_the_plain_loop(method, sites):
    """Padded and cached memories of different lengths, against a forward pass for each memory."""
    memories = [toy_memory(4 + n, prompt=2 + n % 3, seed=n) for n in range(7)]
    recipe = Recipe(
        rank=3, epochs=8, batch_size=3, accumulate=2, lr=0.01, method=method, sites=sites
    )
    model = toy_model()
    unit, batch = Unit.create(model, 3, sites=sites), Batch(memories, 128, model.device)
    (training,) = train(model, [unit], batch, [recipe])

    unit, trace = Unit.create(model, 3, sites=sites).attach(model), []
    optimizer = torch.optim.AdamW(unit.parameters(), lr=recipe.lr, weight_decay=0)
    steps = seen(recipe, len(memories))
    for number, step in enumerate(steps):
        optimizer.zero_grad()
        means = []
        T = margin.END ** (number / len(steps)) ** 2 if method == "margin" else 1.0
        for part in step:
            losses, sharpened = [], []
            for n in part:
                ids = torch.tensor([memories[n].prompt_ids + memories[n].target_ids])
                logits = model(ids)[0, len(memories[n].prompt_ids) - 1 : -1]
                targets = torch.tensor(memories[n].target_ids)
                losses.append(F.cross_entropy(logits, targets, reduction="none"))
                sharpened.append(T * F.cross_entropy(logits / T, targets, reduction="none"))
            losses, sharpened = torch.cat(losses), torch.cat(sharpened)
            active = (losses > math.log(2)).float()
            if method in ("sft", "margin") or (method == "memft-ot" and not active.any()):
                active = torch.ones_like(losses)
            ((active * sharpened).sum() / max(active.sum(), 1) / len(step)).backward()
            means.append(losses.mean().item())
        trace.append(sum(means) / len(means))
        torch.nn.utils.clip_grad_norm_(unit.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = recipe.lr * (1 - number / len(steps))
        optimizer.step()
    assert training.losses == pytest.approx(trace, abs=1e-4)
    assert trace[-1] < trace[0]
