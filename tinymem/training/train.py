"""Writing memories: the training loop.

Glossary
    ℓ_t   loss of target token t given the prompt and the target before it, nats
    w_t   its weight (memft.py); the loss that is back-propagated is Σ w_t ℓ_t / Σ w_t
    p_t   its probability, e^(−ℓ_t); above one half the token is certified (recall.py)
    K, N  runs that train side by side; target tokens of each

One run is a batch of one. Several, of any ranks, methods, seeds and learning rates, can train together
if their memories have the same lengths: the layers that they share then are computed once for all, in
larger matrix products, and each goes as it would alone. Those that are done leave.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ..base.model import Model
from ..data.batch import Batch
from ..unit.lora import Unit
from . import memft
from .adamw import AdamW, clip_gradients
from .graph import Replay
from .lbfgs import minimize
from .loss import token_losses
from .prefix import Prefix
from .recipe import Minibatches, Recipe, schedule
from .record import Log, Training

METRICS_EVERY = 10  # steps between two looks at the device


class Trainer:
    """K units on the way: `gradient` and then `update` is one step of each.

    batch: the memories of the first unit, then those of the second, …, of the same lengths for each.
    The units are a stack (lora.py) attached to the model until `close`.
    """

    def __init__(
        self,
        model: Model,
        units: Sequence[Unit],
        batch: Batch,
        recipes: Sequence[Recipe],
        lrs: Sequence[float | None],
    ):
        self.model, self.units = model, list(units)
        for unit in units:
            unit.train(False)
        self.stack = Unit.stack(units).attach(model)
        self.stack.train()
        self.prefix = Prefix(model, self.stack, batch)
        self.optimizer, self.room = AdamW(self.stack.parameters()), {}
        self._set_runs(recipes, lrs)

    def _set_runs(self, recipes: Sequence[Recipe], lrs: Sequence[float | None]) -> None:
        count, device = len(recipes), self.model.device
        self.recipes, self.lrs = list(recipes), list(lrs)
        memories = len(self.prefix.batch.ids) // count
        self.weigh = memft.Weigher([recipe.weighting(memories) for recipe in recipes], device)
        self.lr = torch.tensor([lr or 0.0 for lr in lrs], device=device)
        self.rate, self.clip = (
            self.lr.clone(),
            torch.tensor([r.clip for r in recipes], device=device),
        )
        self.metrics = torch.zeros(
            2, count, device=device
        )  # of each run: mean loss, share certified
        self.loss = torch.zeros((), device=device)  # what is back-propagated, summed over the runs
        self.counted = torch.ones(
            len(self.prefix.batch.targets), dtype=torch.bool, device=device
        )  # w_t > 0
        on_cpu = device.type == "cpu"
        self._likely = on_cpu and self.weigh.leaves_out  # elsewhere nothing may depend on the data
        record = not on_cpu and all(recipe.dropout == 0 for recipe in recipes)
        self._gradient = Replay(self._full_gradient, record)
        self._update = Replay(self._clipped_update, record)

    def gradient(self, minibatches: Minibatches = (None,), held: Tensor | None = None) -> None:
        """The gradients of every run's loss Σ w_t ℓ_t / Σ w_t, the mean over minibatches.

        Sets `losses` ℓ_t and `weights` w_t, each [K, N], of the last minibatch, `metrics` and `loss`.
        held: w_t [K, N] instead of those that the methods give.
        """
        if held is None and len(minibatches) == 1 and minibatches[0] is None:
            self._gradient()
            return
        self._clear()
        for which in minibatches:
            part = self.prefix.batch if which is None else self.prefix.batch.select(which)
            self._add_gradient(part, len(minibatches), held)

    def update(self, left: float = 1.0) -> None:
        """Clip, and one step of AdamW at the share `left` of each run's learning rate."""
        torch.mul(self.lr, left, out=self.rate)
        self._update()

    def step(self) -> Tensor:
        """Both, on the whole batch; returns each run's mean loss before it [K], nats."""
        self.gradient()
        self.update()
        return self.metrics[0]

    def _clear(self) -> None:
        for p in self.stack.parameters():
            p.grad = None
        self.metrics.zero_()
        self.loss.zero_()

    def _full_gradient(self) -> None:
        self._clear()
        self._add_gradient(self.prefix.batch, 1)

    def _add_gradient(self, part: Batch, parts: int, held: Tensor | None = None) -> None:
        """Losses of the target alone, their weights, the weighted mean, its gradient: the paper's step."""
        count, before = len(self.recipes), self.counted[part.tokens]
        likely = (
            (lambda losses, rows: (losses > memft.LN2) | before[rows]) if self._likely else None
        )
        correct = torch.empty_like(before) if self.weigh.needs_correct else None

        x = self.prefix.states(part)  # [K · N, width], where the head predicts a target token
        head = self.model.lm_head.weight
        losses = token_losses(x, head, part.targets, likely, correct, self.room).view(count, -1)
        self.losses, self.weights = losses.detach(), held
        if held is None:
            self.weights = self.weigh(
                self.losses, None if correct is None else correct.view(count, -1)
            )
        loss = (
            memft.weighted_mean(losses, self.weights).sum() / parts
        )  # a run's unit is in one term only
        loss.backward()

        self.counted[part.tokens] = (self.weights > 0).flatten()
        self.metrics += (
            torch.stack([self.losses.mean(1), (self.losses < memft.LN2).float().mean(1)]) / parts
        )
        self.loss += loss.detach()

    def _clipped_update(self) -> None:
        clip_gradients(self.stack.parameters(), self.clip)
        self.optimizer.step(self.rate)

    @contextmanager
    def alone(self, run: int) -> Iterator[None]:
        """For a while, the unit of one run is what is attached to the model."""
        self.stack.unstack(self.units)
        self.stack.detach()
        self.units[run].attach(self.model)
        try:
            yield
        finally:
            self.units[run].detach()
            self.stack.attach(self.model)

    def keep(self, runs: Sequence[int]) -> None:
        """Go on with these runs alone; the other units stay as they are trained by now."""
        self.stack.unstack(self.units)
        which = torch.tensor(runs, device=self.model.device)
        window = memft.Window(*(state[which] for state in self.weigh.window))
        memories = len(self.prefix.batch.ids) // len(self.units)
        self.stack.keep(which)
        self.optimizer.keep(which)
        self.prefix.keep(np.concatenate([np.arange(memories) + memories * run for run in runs]))
        self.units = [self.units[run] for run in runs]
        self._set_runs([self.recipes[run] for run in runs], [self.lrs[run] for run in runs])
        self.weigh.window = window

    def close(self) -> None:
        """The units hold what they were trained to, and the model is left as it was."""
        self.stack.unstack(self.units)
        if self.stack.model is not None:
            self.stack.detach()


def train(
    model: Model,
    units: Sequence[Unit],
    batch: Batch,
    recipes: Sequence[Recipe],
    *,
    lrs: Sequence[float | None],
    certify: Callable[[int], bool] = lambda run: True,
    on_metrics: Callable[[float, float, float], None] = lambda done, loss, share: None,
) -> list[Training]:
    """Train each unit on its own part of the batch (see `Trainer`), as its recipe and Ctrl-C say.

    certify: asked, when all p_t > ½ in a run, whether that holds in the verdict's arithmetic too; its unit
    is attached meanwhile.
    on_metrics: called every few steps with (share of the run that is done, mean loss in nats, share of
    tokens with p_t > ½), both over the last epoch and the runs that go on.
    """
    recipe, count = recipes[0], len(batch.ids) // len(units)
    plan = list(schedule(recipe, count))
    epoch = 1 if recipe.batch_size is None else -(-count // (recipe.batch_size * recipe.accumulate))
    trainer = Trainer(model, units, batch, recipes, lrs)
    log = Log(trainer, plan, epoch, certify, on_metrics)
    try:
        if recipe.optimizer == "lbfgs":
            minimize(trainer, plan, log)
            return log.finish()
        for step, minibatches in enumerate(plan):
            trainer.gradient(minibatches)
            log.record(step)
            if step % METRICS_EVERY == 0 and not log.look(step):  # the only wait for the device
                break
            trainer.update(1 - step / len(plan))
            log.done(step + 1)
    except KeyboardInterrupt:  # keep what there is
        for run in log.going:
            log.runs[run].status = "interrupted"
    finally:
        trainer.close()
    return log.finish()
