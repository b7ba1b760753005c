"""The training loop.

One run is a batch of one. Several runs, of any ranks, methods, seeds and learning rates, can train
together if their memories have the same lengths: the layers that they share are then computed for
all of them at once, in larger matrix products, and each run goes as it would alone.
"""

import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean

from ..base.model import Model
from ..base.progress import SILENT, Progress
from ..data.batch import Batch
from ..unit.lora import Unit, left_bare
from .margin import thin_for
from .recipe import Recipe, schedule
from .record import Record, Training
from .rounds import Check, Steps, run_lbfgs
from .state import FORGET, Keeper, read_state, restore
from .trainer import Trainer

CHECK_EVERY = 10  # steps; a check waits for the device


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
    record = Record(len(steps), [recipe.method for recipe in recipes], model.device)
    loop = {"adamw": run_adamw, "lbfgs": run_lbfgs}[recipes[0].optimizer]
    with left_bare(model, units):
        trainer = Trainer(model, units, batch, recipes)
        check = partial(stop_finished, trainer, record, len(steps), progress)
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
            if (step % CHECK_EVERY == 0 or step < CHECK_EVERY) and not check():
                break
            trainer.update(1 - step / len(steps))
            done = step + 1
    except KeyboardInterrupt:
        return done, "interrupted"
    return done, "ok"


def stop_finished(
    trainer: Trainer, record: Record, steps: int, progress: Progress, trial: bool = False
) -> bool:
    """Ends runs that diverged (not in a line search's trial) or are done; whether any goes on."""
    done, recipes, running = record.count - 1, trainer.recipes, record.running
    recent = record.recent(recipes[0].steps_per_epoch(trainer.memories))
    progress.training(done, steps, *map(fmean, recent[:3]))
    clear = thin_for(trainer.model.dtype)
    left = []
    for n, recipe in enumerate(recipes):
        if not (trial or math.isfinite(recent.losses[n])):
            record.stop([running[n]], done, "diverged")
        elif recipe.stop_when_recited and recent.lowest[n] > clear:
            record.stop([running[n]], done, ended="recited")
        elif recipe.stop_when_certified and recent.certified[n] > 1 - 1e-6:
            record.stop([running[n]], done, ended="certified")
        else:
            left.append(n)
    if 0 < len(left) < len(recipes):
        trainer.select(left)
    return bool(left)
