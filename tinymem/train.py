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

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import memft
from .adamw import AdamW, clip_gradients
from .graph import Replay
from .lbfgs import minimize
from .lora import Unit
from .loss import token_losses
from .memory import Batch
from .model import Model
from .prefix import Prefix
from .recipe import Recipe, schedule

METRICS_EVERY = 10  # steps between two looks at the device
STILL = 0.01  # nats per token
SNAPSHOTS = 200  # of every token's p, over a run
Minibatches = Sequence[np.ndarray | None]  # of a step: indices of memories, or None for all


@dataclass
class Training:
    """What a run left behind, beside the unit itself."""

    status: str = "ok"  # ok, diverged or interrupted
    steps: int = 0  # done
    losses: list[float] = field(default_factory=list)  # mean ℓ_t before each step, nats
    certified: list[float] = field(default_factory=list)  # share of tokens with p_t > ½, likewise
    trace: list[tuple[int, list[float]]] = field(default_factory=list)  # (step, every p_t), of full batches

    @property
    def converged(self) -> bool:
        """Had the loss stopped falling? It fell by less than STILL over the last 30 % of the steps.

        A weak test: on the shipped model (ranks 1 and 8, 128 random tokens, learning rates 0.03 to 0.2),
        going from 300 to 1,000 steps lowered the final loss by about 5 to 20 times that fall.
        """
        count = len(self.losses)
        window = max(1, count // 25)
        before = self.losses[int(0.7 * count) :][:window]
        fall = (
            sum(before) / window - sum(self.losses[-window:]) / window if len(before) == window else math.inf
        )
        return self.status == "ok" and fall < STILL


class Weigher:
    """The weights of K runs' tokens, each run's by its own method.

    memft-sw over several memories is memft-ot with the zero-loss rule; its curriculum is `schedule`'s.
    """

    def __init__(self, recipes: Sequence[Recipe], memories: int, device: torch.device):
        kinds = []
        for recipe in recipes:
            many = recipe.method == "memft-sw" and memories > 1
            method = "memft-ot" if many else recipe.method
            kinds.append((method, "zero" if many else recipe.zero_active if method == "memft-ot" else ""))
        runs = {kind: [n for n, k in enumerate(kinds) if k == kind] for kind in kinds}
        self.runs = {kind: torch.tensor(which, device=device) for kind, which in runs.items()}
        self.needs_correct = any(method == "memft-sw" for method, _ in kinds)
        self.saves = any(method == "memft-ot" for method, _ in kinds)  # some weights will be 0
        self.window = memft.first_window(torch.empty(len(kinds), 1, device=device))

    def __call__(self, losses: Tensor, correct: Tensor | None) -> Tensor:
        """[K, N] from losses [K, N], and, for memft-sw, whether the argmax is right [K, N]."""
        weights = torch.empty_like(losses)
        for (method, zero_active), runs in self.runs.items():
            if method == "sft":
                weights[runs] = memft.sft_weights(losses[runs])
            elif method == "memft-ot":
                weights[runs] = memft.memft_ot_weights(losses[runs], zero_active=zero_active)
            else:
                window = memft.Window(*(state[runs] for state in self.window))
                weights[runs], window = memft.memft_sw_weights(losses[runs], correct[runs], window)
                for state, new in zip(self.window, window, strict=True):
                    state[runs] = new
        return weights


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
        self.optimizer = AdamW(self.stack.parameters())
        self._set_runs(recipes, lrs)

    def _set_runs(self, recipes: Sequence[Recipe], lrs: Sequence[float | None]) -> None:
        count, device = len(recipes), self.model.device
        self.recipes, self.lrs = list(recipes), list(lrs)
        self.weigh = Weigher(recipes, len(self.prefix.batch.ids) // count, device)
        self.lr = torch.tensor([lr or 0.0 for lr in lrs], device=device)
        self.rate, self.clip = self.lr.clone(), torch.tensor([r.clip for r in recipes], device=device)
        self.metrics = torch.zeros(2, count, device=device)  # of each run: mean loss, share certified
        self.loss = torch.zeros((), device=device)  # what is back-propagated, summed over the runs
        self.counted = torch.ones(len(self.prefix.batch.targets), dtype=torch.bool, device=device)
        on_cpu = device.type == "cpu"
        self._likely = on_cpu and self.weigh.saves  # elsewhere nothing may depend on the data
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
        x, count = self.prefix.states(part), len(self.recipes)
        likely = (lambda losses, rows: (losses > memft.LN2) | was_counted[rows]) if self._likely else None
        was_counted = self.counted[part.tokens]
        correct = torch.empty_like(was_counted) if self.weigh.needs_correct else None
        losses = token_losses(x, self.model.lm_head.weight, part.targets, likely, correct).view(count, -1)
        self.losses = losses.detach()
        weights = held
        if held is None:
            weights = self.weigh(self.losses, None if correct is None else correct.view(count, -1))
        self.weights = weights
        self.counted[part.tokens] = (weights > 0).flatten()
        self.metrics += torch.stack([self.losses.mean(1), (self.losses < memft.LN2).float().mean(1)]) / parts
        loss = memft.weighted_mean(losses, weights).sum() / parts  # a run's gradient is of its own loss alone
        loss.backward()
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


class Log:
    """What the runs of a trainer leave behind; and which of them go on."""

    def __init__(
        self,
        trainer: Trainer,
        plan: Sequence[Minibatches],
        epoch: int,
        certify: Callable[[int], bool],
        on_metrics: Callable[[float, float, float], None],
    ):
        self.trainer, self.plan, self.epoch = trainer, plan, epoch
        self.certify, self.on_metrics = certify, on_metrics
        count = len(trainer.units)
        self.runs = [Training() for _ in range(count)]
        self.going = list(range(count))  # runs that train on
        self.metrics = torch.zeros(2, len(plan), count, device=trainer.model.device)
        self.column = torch.arange(count, device=trainer.model.device)  # of `going`, in metrics
        self.traces: list[tuple[int, list[int], Tensor]] = []

    def record(self, step: int) -> None:
        """What the gradient of this step has brought to light; nothing is waited for."""
        self.metrics[:, step].index_copy_(1, self.column, self.trainer.metrics)
        if self.plan[step][-1] is None and step % max(1, len(self.plan) // SNAPSHOTS) == 0:
            self.traces.append((step, self.going, (-self.trainer.losses).exp()))

    def look(self, step: int) -> bool:
        """Runs that diverged, and those certified that should stop then, leave. Does any go on?"""
        recent = self.metrics[:, max(0, step + 1 - self.epoch) : step + 1, self.going].mean(1).cpu()
        self.on_metrics(step / len(self.plan), *recent.mean(1).tolist())
        on = []
        for place, (run, loss, share) in enumerate(zip(self.going, *recent.tolist(), strict=True)):
            self.runs[run].steps = step
            if not math.isfinite(loss):
                self.runs[run].status = "diverged"
            elif not (self.trainer.recipes[place].stop_when_certified and share > 1 - 1e-6):
                on.append(place)
            else:
                with self.trainer.alone(place):
                    if not self.certify(run):
                        on.append(place)
        if 0 < len(on) < len(self.going):
            self.trainer.keep(on)
        if len(on) < len(self.going):
            self.going = [self.going[place] for place in on]
            self.column = torch.tensor(self.going, dtype=torch.long, device=self.column.device)
        return bool(on)

    def done(self, steps: int) -> None:
        """The runs that go on have done so many steps."""
        for run in self.going:
            self.runs[run].steps = steps

    def finish(self) -> list[Training]:
        metrics = self.metrics.cpu()
        for n, run in enumerate(self.runs):
            run.losses, run.certified = metrics[:, : run.steps, n].tolist()
        for step, going, p in self.traces:
            for run, row in zip(going, p.tolist(), strict=True):
                self.runs[run].trace.append((step, row))
        return self.runs


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
