"""One optimizer step in four implementations.

    tinymem   the package
    peft      what a user of transformers and peft writes
    paper     the algorithm of arXiv 2605.30260 as published, written anew without its code
    plain     the model and the unit of tinymem without any shortcut

All of them use rank 8 at the same layer, AdamW, gradients clipped to norm 1, no dropout, and a
learning rate that falls linearly to 0 over `steps`. Each function returns `step()`, which does one
whole step and returns the mean loss of the target before the step, in nats.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinymem.data.batch import Batch
from tinymem.data.memory import Memory
from tinymem.training import memft
from tinymem.training.recipe import Recipe
from tinymem.training.trainer import Trainer
from tinymem.unit.lora import Unit

from .bases import Base, twin

RANK = 8
MANY = 10**6  # steps of a run that is only timed
Step = Callable[[], Tensor | None]


def trainer_step(base: Base, memory: Memory, recipes: list[Recipe], done: float = 0.0) -> Step:
    """A step of tinymem's trainer after this share of a run, with a new unit for each recipe."""
    model = twin(base.model)
    batch = Batch([memory] * len(recipes), model.config.context, model.device)
    units = [Unit.create(base.model, recipe.rank, seed=recipe.seed) for recipe in recipes]
    trainer = Trainer(model, units, batch, [replace(recipe, lr=base.lr) for recipe in recipes])

    def step() -> Tensor:
        found = trainer.gradient(done=done)
        trainer.update()
        return found.mean

    return step


def tinymem_step(
    base: Base, memory: Memory, steps: int = MANY, method: str = "sft", units: int = 1
) -> Step:
    recipe = partial(Recipe, rank=RANK, method=method, steps=steps)
    return trainer_step(base, memory, [recipe(seed=seed) for seed in range(units)])


def make_update(base: Base, parameters: list[Tensor], steps: int) -> Callable[[Tensor], None]:
    """The second half of each peer's step: backward pass, clipping, AdamW, schedule."""
    optimizer = torch.optim.AdamW(parameters, lr=base.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)

    def update(loss: Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return update


def tensors(base: Base, memory: Memory) -> tuple[Tensor, Tensor, slice]:
    """The ids [1, T] of prompt and target, the ids [N] of the target, and its positions."""
    ids = torch.tensor([memory.prompt_ids + memory.target_ids], device=base.device)
    start = len(memory.prompt_ids)
    return ids, ids[0, start:], slice(start - 1, -1)


def peft_step(
    base: Base, memory: Memory, steps: int = MANY, method: str = "sft", rank: int = RANK
) -> Step:
    transposed = base.model.family.transposed  # GPT-2
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=["mlp.c_proj" if transposed else "down_proj"],
        layers_to_transform=[base.layer],
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(twin(base.theirs), config)
    update = make_update(base, [p for p in model.parameters() if p.requires_grad], steps)
    ids, targets, places = tensors(base, memory)
    labels = ids.clone()
    labels[0, : len(memory.prompt_ids)] = -100

    def step() -> Tensor:
        if method == "sft":
            loss = mean = model(input_ids=ids, labels=labels).loss
        else:
            logits = model(input_ids=ids).logits[0, places]
            losses = F.cross_entropy(logits.float(), targets, reduction="none")
            weights = memft.memft_ot_weights(losses.detach())
            loss, mean = memft.weighted_mean(losses, weights), losses.mean()
        update(loss)
        return mean.detach()

    return step


class Dense(nn.Module):
    """mlp(x) + x (A B), where the product A B is computed as a d × d matrix."""

    def __init__(self, mlp: nn.Module, unit: Unit, dtype: torch.dtype):
        super().__init__()
        self.mlp, self.on = mlp, True
        self.A, self.B = (nn.Parameter(p.detach().to(dtype)) for p in unit.parameters())

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) + x @ (self.A @ self.B) if self.on else self.mlp(x)


def paper_step(base: Base, memory: Memory, steps: int = MANY) -> tuple[Step, Callable[[], Unit]]:
    """The step, and a function that returns the unit trained so far.

    Every step computes the loss of the base model again, computes all logits in float32, and reads
    numbers back from the device for its log. The unit has the dtype of the base model. It runs on
    the model of tinymem, so that only the algorithm differs.
    """
    unit = Unit.create(base.model, RANK, seed=0)
    model = twin(base.model)
    dense = model.layers[base.layer].mlp = Dense(model.layers[base.layer].mlp, unit, model.dtype)
    update = make_update(base, [dense.A, dense.B], steps)
    ids, targets, places = tensors(base, memory)
    log = []

    def losses_of() -> Tensor:
        return F.cross_entropy(model(ids).float()[0, places], targets, reduction="none")

    def step() -> Tensor:
        dense.on = False
        with torch.no_grad():
            reference = losses_of().mean().item()
        dense.on = True
        losses = losses_of()
        update(losses.mean())
        log[:] = reference, losses.mean().item(), losses.min().item(), losses.max().item()
        return losses.detach().mean()

    def trained() -> Unit:
        for mine, theirs in zip(unit.parameters(), (dense.A, dense.B), strict=True):
            mine.data.copy_(theirs.data)
        return unit

    return step, trained


def plain_step(base: Base, memory: Memory, steps: int = MANY) -> Step:
    model = twin(base.model)
    unit = Unit.create(model, RANK, seed=0).attach(model)
    update = make_update(base, unit.parameters(), steps)
    ids, targets, places = tensors(base, memory)

    def step() -> Tensor:
        loss = F.cross_entropy(model(ids)[0, places].float(), targets)
        update(loss)
        return loss.detach()

    return step
