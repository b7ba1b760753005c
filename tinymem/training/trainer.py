"""One training step: losses, weights, weighted mean, gradient; then the update.

Glossary
    ℓ_t   loss of target token t given the prompt and the target before it, nats
    m_t   its margin, logits (margin.py)
    T     temperature; s_t = T CE(z_t / T, target t), which is ℓ_t but for the method margin
    w_t   its weight (memft.py); the loss that is back-propagated is Σ w_t s_t / Σ w_t
    p_t   its probability, e^(−ℓ_t); above one half the token is certified (recall.py)
    K, N  runs that train in lockstep; target tokens of each
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..base.model import Model
from ..data.batch import Batch
from ..unit.lora import Unit
from ..unit.stack import Stack
from .adamw import AdamW, clip_gradients
from .graph import GraphedStep
from .loss import TokenLoss
from .margin import temperature
from .memft import LN2, Weigher, weighted_mean
from .prefix import Prefix
from .recipe import Minibatches, Recipe


class StepResult(NamedTuple):
    """What one computation of the gradient found. On a GPU the next one may overwrite it."""

    losses: Tensor  # ℓ_t [K, N], nats, of the last minibatch
    weights: Tensor  # w_t [K, N], likewise
    margins: Tensor  # m_t [K, N], likewise; NaN where nothing needs them
    mean: Tensor  # [K], mean loss of each run, nats, over all minibatches
    certified: Tensor  # [K], share of each run's tokens with p_t > ½, likewise
    recited: Tensor  # [K], share with m_t > 0, likewise; NaN as above
    lowest: Tensor  # [K], lowest m_t, likewise
    loss: Tensor  # [], what was back-propagated, summed over the runs


class Trainer:
    """Trains K units in lockstep; one step is `gradient` and then `update`.

    batch: the memories of the first unit, then those of the second, and so on, of the same lengths
    for each. The units are attached to the model, as one stack, until `close`.
    """

    def __init__(
        self, model: Model, units: Sequence[Unit], batch: Batch, recipes: Sequence[Recipe]
    ):
        self.model, self.recipes = model, list(recipes)
        self.memories = len(batch.ids) // len(units)  # of each run
        for unit in units:
            unit.train(False)
        self.stack = Stack(units)
        self.stack.attach(model)
        self.stack.train()
        self.prefix = Prefix(model, self.stack, batch)
        self.optimizer = AdamW(self.stack.parameters())
        kinds = [recipe.weighting(self.memories) for recipe in recipes]
        self.weigh = Weigher(kinds, model.device)
        self._prepare_step()

    def _prepare_step(self) -> None:
        """What depends on which runs train: rates, buffers, and the step that a GPU replays."""
        device, head = self.model.device, self.model.lm_head.weight
        lrs = [float(recipe.learning_rate(self.model) or 0) for recipe in self.recipes]
        self.lr = torch.tensor(lrs, device=device)
        self.rate = self.lr.clone()
        self.clip = torch.tensor([float(recipe.clip) for recipe in self.recipes], device=device)
        ends = [recipe.last_temperature() for recipe in self.recipes]
        self.sharpens = min(ends) < 1
        self.last_temperature = torch.tensor(ends, device=device)
        self.temperature = torch.ones_like(self.lr)
        watch = self.sharpens or any(recipe.stop_when_recited for recipe in self.recipes)
        compare = watch or self.weigh.needs_margins
        tokens, skip = len(self.prefix.batch.targets), self.weigh.has_zero_weights
        skip = skip and device.type == "cpu"  # a GPU records a step that must not depend on data
        self.token_loss = TokenLoss(head, tokens, skip, compare)
        record = device.type != "cpu" and all(recipe.dropout == 0 for recipe in self.recipes)
        self._whole_gradient = GraphedStep(self._gradient, record)
        self._update = GraphedStep(self._clip_and_update, record)

    def gradient(
        self, minibatches: Minibatches = (None,), done: float = 0.0, weights: Tensor | None = None
    ) -> StepResult:
        """The gradient of every run's loss, the mean over the minibatches, in the parameters' grad.

        done: share of the run, 0 to 1, which sets the temperatures. weights: w_t [K, N] instead of
        those that the methods give.
        """
        self.temperature.copy_(temperature(done, self.last_temperature))
        whole = weights is None and len(minibatches) == 1 and minibatches[0] is None
        return self._whole_gradient() if whole else self._gradient(minibatches, weights)

    def _gradient(
        self, minibatches: Minibatches = (None,), weights: Tensor | None = None
    ) -> StepResult:
        for p in self.stack.parameters():
            p.grad = None
        share = 1 / len(minibatches)
        found = [self._add_gradient(indices, share, weights) for indices in minibatches]
        *sums, lowest, loss = map(torch.stack, list(zip(*found, strict=True))[3:])
        mean, certified, recited = (parts.sum(0) for parts in sums)
        return StepResult(*found[-1][:3], mean, certified, recited, lowest.amin(0), loss.sum(0))

    def _add_gradient(
        self, indices: np.ndarray | None, share: float, weights: Tensor | None = None
    ) -> StepResult:
        """The paper's step on the memories `indices` (None: all), a `share` of the whole step."""
        part = self.prefix.batch.select(indices)
        states = self.prefix.states(part)  # [K·N, d], which predict the target tokens
        runs = len(self.recipes)
        each = self.temperature.repeat_interleave(len(states) // runs) if self.sharpens else None
        found = self.token_loss(states, part.targets, part.tokens, each)
        losses = found.losses.view(runs, -1)  # ℓ_t [K, N]
        margins = None if found.margins is None else found.margins.view(runs, -1)
        if weights is None:
            weights = self.weigh(losses, margins)  # w_t [K, N]
        loss = weighted_mean(found.objective.view(runs, -1), weights).sum() * share
        loss.backward()  # each run's unit is in one term of the sum only

        mean, certified = losses.mean(1), (losses < LN2).float().mean(1)
        if margins is None:
            margins = torch.full_like(losses, torch.nan)
        lowest = margins.amin(1)
        recited = (margins > 0).float().mean(1).where(~lowest.isnan(), lowest)
        mean, certified, recited = mean * share, certified * share, recited * share
        return StepResult(losses, weights, margins, mean, certified, recited, lowest, loss.detach())

    def update(self, share: float = 1.0) -> None:
        """Clip the gradients; one step of AdamW at this share of each run's learning rate."""
        torch.mul(self.lr, share, out=self.rate)
        self._update()

    def _clip_and_update(self) -> None:
        clip_gradients(self.stack.parameters(), self.clip)
        self.optimizer.step(self.rate)

    def select(self, indices: Sequence[int]) -> None:
        """Continue with these runs only; the other units keep the values they have reached."""
        self.stack.select(indices)
        self.optimizer.select(indices)
        self.weigh = self.weigh.select(indices)
        places = [np.arange(self.memories) + self.memories * n for n in indices]
        self.prefix.select(np.concatenate(places))
        self.recipes = [self.recipes[n] for n in indices]
        self._prepare_step()

    def close(self) -> None:
        """The units get the values that they were trained to; the model is left as it was."""
        self.stack.write_back()
        if self.stack.model is not None:
            self.stack.detach()
