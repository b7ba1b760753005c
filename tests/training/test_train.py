"""The training loop. Oracle: a plain loop with full forward passes and without a cache."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.base.progress import Progress
from tinymem.data.batch import Batch
from tinymem.data.memory import Memory
from tinymem.errors import DataError, RecipeError
from tinymem.experiment.probe import memorize
from tinymem.training import memft
from tinymem.training.loss import TokenLoss
from tinymem.training.recipe import Recipe, schedule
from tinymem.training.record import Training
from tinymem.training.train import train
from tinymem.unit.lora import Unit

LR = 0.05


def plain_loop(model, unit, memory, recipe):
    """The loop without any shortcut: full forward passes, and all logits."""
    ids = torch.tensor([memory.prompt_ids + memory.target_ids])
    start, state, losses_by_step = len(memory.prompt_ids), None, []
    optimizer = torch.optim.AdamW(unit.parameters(), lr=recipe.lr, weight_decay=0)
    for step in range(recipe.steps):
        logits = model(ids)[0, start - 1 : -1]
        losses = -logits.log_softmax(-1).gather(1, ids[0, start:, None]).squeeze(1)
        detached = losses.detach()
        losses_by_step.append(detached.mean().item())
        if recipe.method == "sft":
            weights = torch.ones_like(detached)
        elif recipe.method == "memft-ot":
            weights = memft.memft_ot_weights(detached, zero_active=recipe.zero_active)
        else:
            state = memft.first_window(detached) if state is None else state
            weights, state = memft.memft_sw_weights(
                detached, logits.argmax(-1) == ids[0, start:], state
            )
        loss = (weights * losses).sum() / max(weights.sum().item(), 1e-9)
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in unit.parameters()))
        for p in unit.parameters():
            p.grad.mul_(min(1.0, recipe.clip / (norm + 1e-6)))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * (1 - step / recipe.steps)
        optimizer.step()
    return losses_by_step


@pytest.mark.parametrize("method", memft.METHODS)
@pytest.mark.parametrize(("sites", "layers"), [(("mlp",), None), (("q_proj", "down_proj"), (1, 3))])
def test_the_loss_trace_is_that_of_the_plain_loop(method, sites, layers):
    # Two LoRAs in each of two layers learn fast. With a lower rate AdamW amplifies rounding less.
    lr = LR if sites == ("mlp",) else 0.01
    recipe = Recipe(rank=3, steps=50, lr=lr, method=method, sites=sites, layers=layers)
    memory, traces = toy_memory(24), []
    for loop in (plain_loop, None):
        model = toy_model()
        unit = Unit.create(model, 3, sites=sites, layers=layers)
        if loop:
            traces.append(loop(model, unit.attach(model), memory, recipe))
        else:
            batch = Batch([memory], 128, model.device)
            traces.append(train(model, [unit], batch, [recipe], lrs=[lr])[0].losses)
    assert traces[1] == pytest.approx(traces[0], abs=1e-5)
    assert traces[0][-1] < traces[0][0] - 1  # the run has learned


def test_a_random_network_memorizes():
    result = memorize(toy_model(), toy_memory(24), rank=8, steps=200, lr=LR)
    assert (
        result.report["certified"]
        and result.report["recall_exact"]
        and result.report["status"] == "ok"
    )
    assert result.report["final_loss"] < 0.2 < result.report["base_loss"]


def test_the_same_seed_gives_the_same_report_bit_for_bit():
    def run(seed):
        report = memorize(
            toy_model(), toy_memory(), rank=2, steps=30, seed=seed, dropout=0.1
        ).report
        return {key: value for key, value in report.items() if key != "wall_seconds"}

    assert run(0) == run(0)
    assert run(0)["final_loss"] != run(1)["final_loss"]


def test_several_memories_in_one_unit():
    memories = [toy_memory(6, prompt=4, seed=s) for s in range(3)] + [
        toy_memory(9, prompt=2, seed=9)
    ]
    report = memorize(toy_model(), memories, rank=8, steps=200, lr=LR).report
    assert (report["length"], report["memories"], report["recall_exact"]) == (27, 4, True)


def test_the_base_is_left_as_it_was():
    model = toy_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    memorize(model, toy_memory(), rank=2, steps=5)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_stop_when_certified_stops_early_and_is_true():
    slow = memorize(toy_model(), toy_memory(), rank=8, steps=300, lr=LR).report
    fast = memorize(
        toy_model(), toy_memory(), rank=8, steps=300, lr=LR, stop_when_certified=True
    ).report
    assert slow["steps"] == 300 and fast["steps"] < 150
    assert fast["certified"] and fast["status"] == "ok"


def test_a_loss_that_is_not_finite_stops_the_run(monkeypatch):
    calls, real = iter(range(1000)), TokenLoss.__call__

    def losses(*args):
        losses, correct = real(*args)
        return losses * (math.nan if next(calls) >= 25 else 1.0), correct

    monkeypatch.setattr(TokenLoss, "__call__", losses)
    report = memorize(toy_model(), toy_memory(), rank=2, steps=50).report
    # The loss is NaN from step 25 on, and the next check is at step 30.
    assert (report["status"], report["steps"]) == ("diverged", 30)
    assert report["final_loss"] is None and not report["certified"] and not report["converged"]


def test_a_run_that_ends_above_its_start_has_diverged():
    report = memorize(toy_model(), toy_memory(), rank=2, steps=8, lr=100.0).report
    assert report["status"] == "diverged" and not report["converged"]
    assert report["final_loss"] > report["base_loss"]


def test_ctrl_c_keeps_what_there_is():
    class StopsAt20(Progress):
        def training(self, done, loss, certified):
            if done == 0.2:
                raise KeyboardInterrupt

    result = memorize(toy_model(), toy_memory(), rank=4, steps=100, lr=LR, progress=StopsAt20())
    assert (result.report["status"], result.report["steps"]) == ("interrupted", 20)
    assert result.report["final_loss"] < result.report["base_loss"]


def test_out_of_memory_is_a_status(monkeypatch):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tinymem.experiment.probe.train", full)
    model = toy_model()
    report = memorize(model, toy_memory(), rank=2, steps=5).report
    assert report["status"] == "oom" and report["final_loss"] is None and report["base_loss"] > 0
    Unit.create(model, 1).attach(model)  # nothing was left attached


def test_a_float32_unit_on_a_bfloat16_base():
    model = toy_model().to(torch.bfloat16)
    result = memorize(model, toy_memory(), rank=8, steps=150, lr=LR)
    assert result.report["dtype"] == "bfloat16" and result.report["certified"]
    assert all(p.dtype == torch.float32 for p in result.unit.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"rank": 2.5},
        {"steps": 0},
        {"seed": -1},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": 1e38},
        {"method": "memft"},
        {"zero_active": "none"},
        {"dropout": 1.0},
        {"clip": -1.0},
    ],
)
def test_recipes_that_no_run_could_use(options):
    with pytest.raises(RecipeError, match=next(iter(options))):
        Recipe(**options)


def test_unknown_options_are_errors():
    with pytest.raises(TypeError, match="learning_rate"):
        memorize(toy_model(), toy_memory(), learning_rate=1.0)


def test_a_memory_beyond_the_context():
    with pytest.raises(
        DataError, match=r"3 prompt tokens \+ 126 target tokens = 129.*context of 128.*125"
    ):
        memorize(toy_model(), toy_memory(126))
    memorize(toy_model(), toy_memory(125), rank=1, steps=1)
    with pytest.raises(DataError, match="memory 2: "):
        memorize(toy_model(), [toy_memory(5), toy_memory(126)])


def seen(recipe, count):
    """For each step, the memories in each of its minibatches."""
    return [
        [list(range(count)) if part is None else part.tolist() for part in step]
        for step in schedule(recipe, count)
    ]


def test_schedule_minibatches_see_every_memory_once_an_epoch():
    steps = seen(Recipe(epochs=3, batch_size=2, accumulate=2), 7)
    assert [len(step) for step in steps] == [2, 2] * 3  # 7 memories: minibatches of 2, 2, 2, 1
    epochs = [[*itertools.chain(*steps[2 * n], *steps[2 * n + 1])] for n in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1]
    assert seen(Recipe(epochs=3, batch_size=2, accumulate=2), 7) == steps
    assert seen(Recipe(epochs=3, batch_size=2, accumulate=2, seed=1), 7) != steps


def test_schedule_of_a_full_batch_and_of_steps():
    assert seen(Recipe(steps=4), 3) == [[[0, 1, 2]]] * 4 == seen(Recipe(epochs=4), 3)
    assert len(seen(Recipe(steps=5, batch_size=2), 6)) == 5


@pytest.mark.parametrize("batch_size", [None, 4])
def test_schedule_of_the_curriculum(batch_size):
    recipe = Recipe(method="memft-sw", epochs=15, batch_size=batch_size)
    stages = [[*itertools.chain(*step)] for step in seen(recipe, 10)]
    sizes = [len(set(stage)) for stage in stages]
    if batch_size is None:  # an epoch is one step; 20, 40, 60, 80 % have one step each
        assert sizes == [2, 4, 6, 8] + [10] * 11
        assert all(set(a) <= set(b) for a, b in itertools.pairwise(stages))
    recipe = dataclasses.replace(recipe, boundaries=(2, 3, 4, 6))
    if batch_size is None:
        assert [len(stage[0]) for stage in seen(recipe, 10)] == [2, 2, 4, 6, 8, 8] + [10] * 9
    assert seen(dataclasses.replace(recipe, method="memft-ot"), 10) != seen(recipe, 10)
    assert seen(recipe, 1) == [[[0]]] * 15  # one memory: the sliding window, not the curriculum


@pytest.mark.parametrize("method", memft.METHODS)
@pytest.mark.parametrize("sites", [("mlp",), ("q_proj", "down_proj")])
def test_minibatches_train_like_a_plain_loop(method, sites):
    """Padded and cached memories of different lengths, against a forward pass for each memory."""
    memories = [toy_memory(4 + n, prompt=2 + n % 3, seed=n) for n in range(7)]
    recipe = Recipe(
        rank=3, epochs=8, batch_size=3, accumulate=2, lr=0.01, method=method, sites=sites
    )
    model, traces = toy_model(), []
    unit, batch = Unit.create(model, 3, sites=sites), Batch(memories, 128, model.device)
    traces.append(train(model, [unit], batch, [recipe], lrs=[recipe.lr])[0].losses)

    unit, trace = Unit.create(model, 3, sites=sites).attach(model), []
    optimizer = torch.optim.AdamW(unit.parameters(), lr=recipe.lr, weight_decay=0)
    steps = seen(recipe, len(memories))
    for number, step in enumerate(steps):
        optimizer.zero_grad()
        means = []
        for part in step:
            losses = []
            for n in part:
                ids = torch.tensor([memories[n].prompt_ids + memories[n].target_ids])
                logits = model(ids)[0, len(memories[n].prompt_ids) - 1 : -1]
                targets = torch.tensor(memories[n].target_ids)
                losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
            losses = torch.cat(losses)
            active = (losses > math.log(2)).float()
            if method == "sft" or (method == "memft-ot" and not active.any()):
                active = torch.ones_like(losses)
            ((active * losses).sum() / max(active.sum(), 1) / len(step)).backward()
            means.append(losses.mean().item())
        trace.append(sum(means) / len(means))
        torch.nn.utils.clip_grad_norm_(unit.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = recipe.lr * (1 - number / len(steps))
        optimizer.step()
    assert np.abs(np.array(trace) - np.array(traces[0])).max() < 1e-4
    assert trace[-1] < trace[0]


def test_the_trace_of_every_token():
    result = memorize(toy_model(), toy_memory(12), rank=4, steps=400, lr=LR)
    steps = [step for step, _ in result.training.trace]
    assert steps == list(range(0, 400, 2)) and all(len(p) == 12 for _, p in result.training.trace)
    for step, p in result.training.trace[::50]:
        assert math.isclose(-np.log(p).mean(), result.training.losses[step], rel_tol=1e-4)


def test_held_out_memories_are_judged_and_not_trained():
    memories = [toy_memory(6, seed=n) for n in range(3)]
    report = memorize(
        toy_model(), memories[:2], held_out=memories[2:], rank=4, steps=150, lr=LR
    ).report
    assert (report["exact_match"], report["held_out_exact_match"]) == (1.0, 0.0)
    assert report["held_out_memories"] == 1 and report["held_out_loss"] > report["final_loss"] + 1


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


def test_arguments_that_are_not_what_they_should_be():
    model = toy_model()
    for memories in ([], "hello", [1, 2], None):
        with pytest.raises(DataError, match="expected a Memory"):
            memorize(model, memories, rank=1)
    with pytest.raises(DataError, match="token id 97 is beyond the model's vocabulary of 97"):
        memorize(model, Memory([1], [97]), rank=1)
    for options in ({"layers": "2"}, {"sites": [1]}, {"lr": "auto"}):
        with pytest.raises(RecipeError, match=next(iter(options))):
            Recipe(**options)


def test_lone_values_numpy_numbers_and_overrides():
    assert Recipe(sites="c_attn", layers=3) == Recipe(sites=("c_attn",), layers=(3,))
    assert Recipe(rank=np.int64(2)).rank == 2
    assert Memory(np.array([1]), [np.int64(3)]) == Memory([1], [3])
    base = Recipe(rank=1, steps=2)
    assert memorize(toy_model(), toy_memory(), recipe=base, rank=4).report["rank"] == 4


def test_ctrl_c_before_the_first_step_is_reported_too(monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinymem.experiment.probe.teacher_forced", interrupted)
    model = toy_model()
    report = memorize(model, toy_memory(), rank=2, steps=5).report
    assert (
        report["status"] == "interrupted" and report["steps"] == 0 and report["base_loss"] is None
    )
    Unit.create(model, 1).attach(model)  # nothing was left attached
