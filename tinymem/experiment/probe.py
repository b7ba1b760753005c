"""The experiment: write a memory into a fresh unit, judge it, and report."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from ..base.arithmetic import with_gradients
from ..base.model import Model
from ..base.progress import SILENT, Progress, bars_in_notebooks
from ..data.batch import Batch
from ..data.memory import Memories, Memory, check_fits
from ..errors import RecipeError, is_out_of_memory
from ..training.recipe import Recipe
from ..training.record import Training
from ..training.state import FORGET, Keeper
from ..training.train import train
from ..unit.lora import Unit
from .recall import Verdict, judge_units, teacher_forced
from .report import Result, make_report, pick

UNIT_FIELDS = ("rank", "sites", "layers", "seed", "dropout")


@bars_in_notebooks
def memorize(
    model: Model,
    memory: Memories,
    *,
    recipe: Recipe | None = None,
    held_out: Sequence[Memory] = (),
    progress: Progress = SILENT,
    keeper: Keeper = FORGET,
    **options: Any,
) -> Result:
    """Write one memory (or several) into one unit, and judge it. The model is left as it was.

    options: fields of `Recipe` (rank, layers, sites, method, steps, lr, seed, …), instead of those
        of `recipe`.
    held_out: memories that are judged too, but not trained on. Does a rule generalise?
    keeper: keeps the state of the run, so that it can go on after a kill (state.py).
    Returns a `Result` whose report has the fields of `Report`.

    Raises RecipeError for options that no run could use, and DataError for a memory that does not
    fit. Divergence, lack of memory and Ctrl-C raise nothing; the report's `status` names them. An
    interrupted run is not judged.
    """
    recipe = Recipe(**options) if recipe is None else dataclasses.replace(recipe, **options)
    others: Any = {"held_out": held_out, "progress": progress, "keeper": keeper}
    return memorize_together(model, [memory], [recipe], **others)[0]


@bars_in_notebooks
@with_gradients()
def memorize_together(
    model: Model,
    memories: Sequence[Memories],
    recipes: Sequence[Recipe],
    *,
    held_out: Sequence[Memory] = (),
    progress: Progress = SILENT,
    keeper: Keeper = FORGET,
) -> list[Result]:
    """Several runs, each as `memorize` does it, trained and judged as one batch.

    memories: of each run. They have the same lengths, and the recipes differ in rank, method, seed,
        lr, clip and zero_active alone. Raises RecipeError if they cannot train together.
    """
    targets = [check_fits(own, model.config) for own in memories]
    others = check_fits(held_out, model.config) if held_out else []
    keys = {recipe.batch_key(own) for recipe, own in zip(recipes, targets, strict=True)}
    if len(recipes) > 1 and (len(keys) > 1 or None in keys):
        raise RecipeError("these runs cannot be trained together; train them one by one")
    if model.embed_tokens.weight.is_inference():
        raise RecipeError("the model was made in torch.inference_mode; make it outside, to train")
    start = time.monotonic() - keeper.seconds
    units = [Unit.create(model, **pick(recipe, *UNIT_FIELDS)) for recipe in recipes]
    results = [Result({}, own, unit) for own, unit in zip(targets, units, strict=True)]
    base_losses = [math.nan] * len(recipes)
    status = "ok"
    try:
        base_losses = measure_base(model, targets)
        batch = Batch([m for own in targets for m in own], model.config.context, model.device)
        trainings = train(model, units, batch, recipes, progress, keeper)
        for result, training in zip(results, trainings, strict=True):
            result.training = training
        if any(training.status == "interrupted" for training in trainings):
            raise KeyboardInterrupt
        verdicts = judge_units(model, units, targets, progress)
        for result, verdict in zip(results, verdicts, strict=True):
            if others:
                (result.held_out,) = judge_units(model, [result.unit], [others], progress)
            result.verdict = verdict
    except KeyboardInterrupt:  # what was trained is still there to be saved
        status = "interrupted"
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        status = "oom"
    seconds = (time.monotonic() - start) / len(recipes)
    for result, recipe, base_loss in zip(results, recipes, base_losses, strict=True):
        if result.verdict is None:
            result.training.status = status
        elif has_diverged(result.verdict, result.training, base_loss, model):
            result.training.status = "diverged"
        result.report = make_report(model, recipe, result, base_loss, seconds)
    return results


def has_diverged(judged: Verdict, training: Training, base_loss: float, model: Model) -> bool:
    """Whether training failed, although its losses may all be numbers.

    The loss ended above the base model's; or, having been above it, less than half of the way down
    to that of a uniform guess, as with learning rates far too high. (Of the 2,041 finished runs in
    tutorials/reproduction, none ended above half of that way.)
    """
    if judged.verbatim:
        return False
    guess = math.log(model.config.vocab_size)
    climbed = max(training.losses, default=0.0) > base_loss
    most = (base_loss + guess) / 2 if climbed and guess < base_loss else base_loss
    return not judged.loss <= most + 1e-3  # rounding: a unit that was not trained changes nothing


def measure_base(model: Model, memories: Sequence[list[Memory]]) -> list[float]:
    """L₀ of each run's memories, nats per token; of equal ones it is computed once."""
    known = {}
    for own in dict.fromkeys(map(tuple, memories)):
        batch = Batch(own, model.config.context, model.device)
        known[own] = teacher_forced(model, batch).losses.mean().item()
    return [known[tuple(own)] for own in memories]
