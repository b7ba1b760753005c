"""The training loop.

One run is a batch of one. Several runs, of any ranks, methods, seeds and learning rates, can train
together if their memories have the same lengths: the layers that they share are then computed for
all of them at once, in larger matrix products, and each run goes as it would alone.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

import torch
from torch import Tensor

from ..base.model import Model
from ..base.progress import SILENT, Progress
from ..data.batch import Batch
from ..unit.lora import Unit
from .lbfgs import Evaluation, Variables, minimize
from .margin import thin_for
from .recipe import Minibatches, Recipe, schedule
from .record import Record, Training
from .state import FORGET, Keeper, read_lbfgs, read_state, restore, restore_lbfgs
from .trainer import Trainer

CHECK_EVERY = 10  # steps; a check waits for the device
# Temperatures of the method margin in a run of L-BFGS, which drops its curvature estimate between
# them. Measured on `tiny` (90 random tokens, rank 2, 500 evaluations; share of the argmaxes that
# are right at the end, mean of three seeds): 8 temperatures of one ratio 99.6 %; a new one in each
# round 94 %, and 97 % with the estimate kept, which then belongs to another function; the last one
# all the time 41 %. AdamW has 73 % after 500 steps. Over six more seeds, 5 temperatures have 89 %,
# 8 have 91 %, 12 have 90 %, and 8 that fall late, as margin.temperature does, 85 %.
LEVELS = 8
Steps = Sequence[Minibatches]
Check = Callable[[], bool]  # `stop_finished`


def train(
    model: Model,
    units: Sequence[Unit],
    batch: Batch,
    recipes: Sequence[Recipe],
    progress: Progress = SILENT,
    keeper: Keeper = FORGET,
) -> list[Training]:
    """Train each unit on its own part of the batch (see `Trainer`), as its recipe says.

    Ctrl-C ends the runs, which keep what they have learned; no unit is left attached.
    keeper: of a lone run; it gives the state to go on from, and takes that of every step.
    """
    steps = list(schedule(recipes[0], len(batch.ids) // len(units)))
    trainer = Trainer(model, units, batch, recipes)
    record = Record(len(steps), [recipe.method for recipe in recipes], model.device)
    check = partial(stop_finished, trainer, record, len(steps), progress)
    loop = {"adamw": run_adamw, "lbfgs": run_lbfgs}[recipes[0].optimizer]
    try:
        restore(keeper.state, trainer, record)
        done, status = loop(trainer, record, steps, check, keeper)
    finally:
        trainer.close()
    return record.finish(done, status)


def run_adamw(
    trainer: Trainer, record: Record, steps: Steps, check: Check, keeper: Keeper
) -> tuple[int, str]:
    """Gradient, update, and again, while the learning rate falls linearly to 0.

    Returns the number of steps done and the status.
    """
    done, now = record.count, partial(read_state, trainer)
    try:
        for step, minibatches in enumerate(steps[done:], done):
            keeper.keep(record, now)
            found = trainer.gradient(minibatches, step / len(steps))
            record.add(found, whole=minibatches[-1] is None)
            if step % CHECK_EVERY == 0 and not check():
                break
            trainer.update(1 - step / len(steps))
            done = step + 1
    except KeyboardInterrupt:
        return done, "interrupted"
    return done, "ok"


def stop_finished(trainer: Trainer, record: Record, steps: int, progress: Progress) -> bool:
    """Ends the runs that diverged or reached what they stop at; returns whether any goes on."""
    done, recipes, running = record.count - 1, trainer.recipes, record.running
    recent = record.recent(recipes[0].steps_per_epoch(trainer.memories))
    progress.training(done / steps, *map(fmean, recent[:3]))
    clear = thin_for(trainer.model.dtype)
    left = []
    for n, recipe in enumerate(recipes):
        reached = recipe.stop_when_certified and recent.certified[n] > 1 - 1e-6
        reached |= recipe.stop_when_recited and recent.lowest[n] > clear
        if not math.isfinite(recent.losses[n]):
            record.stop([running[n]], done, "diverged")
        elif reached:
            record.stop([running[n]], done, "ok")
        else:
            left.append(n)
    if 0 < len(left) < len(recipes):
        trainer.select(left)
    return bool(left)


def run_lbfgs(
    trainer: Trainer, record: Record, steps: Steps, check: Check, keeper: Keeper
) -> tuple[int, str]:
    """L-BFGS on one run; its steps are evaluations of the gradient. Returns steps and status."""
    loss, variables = RoundLoss(trainer, record, steps, check), Variables(trainer.stack.parameters())
    loss.fixed, estimate = restore_lbfgs(keeper.state, variables)

    def keep(optimizer: torch.optim.LBFGS | None) -> None:
        keeper.keep(record, partial(read_lbfgs, trainer, variables, loss.fixed, optimizer))

    try:
        minimize(variables, loss, len(steps) - record.count, keep, estimate)
    except KeyboardInterrupt:
        return record.count, "interrupted"
    return record.count, "ok"


class RoundLoss:
    """The loss as L-BFGS sees it: weights and temperature are those of the round's beginning."""

    def __init__(self, trainer: Trainer, record: Record, steps: Steps, check: Check):
        self.trainer, self.record, self.steps, self.check = trainer, record, steps, check
        self.minibatches: Minibatches = (None,)
        self.done = 0.0  # share of the run at which AdamW would have the temperature of the round
        self.fixed: tuple[Tensor, Tensor] | None = None  # w_t [1, N] and T [1] of the round

    def __call__(self, new_round: bool) -> Evaluation | None:
        """The loss, with its gradient in the parameters; None if the run has ended."""
        if new_round:
            self.minibatches = self.steps[self.record.count]
            level = LEVELS * self.record.count // len(self.steps)
            self.done = math.sqrt(level / (LEVELS - 1))  # T is END^(done²): equal ratios
        weights = None if new_round or self.fixed is None else self.fixed[0]
        found = self.trainer.gradient(self.minibatches, self.done, weights)
        self.record.add(found, whole=self.minibatches[-1] is None)
        changed = False
        if new_round:
            if not self.check():
                return None
            fixed = found.weights.clone(), self.trainer.temperature.clone()
            changed = self.fixed is None or not all(map(torch.equal, self.fixed, fixed))
            self.fixed = fixed
        return Evaluation(found.loss.item(), changed)
