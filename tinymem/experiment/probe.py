"""The experiment: write a memory into a fresh unit, judge it, and report.

Bits (ΔL is the paper's, arXiv 2605.30260; stored and memorized bits are tinymem's; yardsticks: README)
    L₀, L       mean loss of the target without and with the unit, nats per token
    H           entropy of a target of uniformly random tokens, nats per token
    ΔL          L₀ − L
    stored      ΔL · ℓ / ln 2, bits
    memorized   max(0, H − L) · ℓ / ln 2, bits, where the target is random: what the unit knows of
                the memory itself. Stored bits also count the unlearning of the base's prior, L₀ − H
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..base.model import Model
from ..data.batch import Batch
from ..data.memory import Memory, check_fits
from ..errors import AdapterError, RecipeError, is_out_of_memory
from ..files import write_atomically
from ..training.memft import LN2
from ..training.recipe import Recipe
from ..training.record import Training
from ..training.train import train
from ..unit.adapter import is_finite, read_about, save_adapter
from ..unit.lora import Unit
from .recall import Verdict, Watch, is_certified, judge_units, teacher_forced

EXIT_CODES = {"ok": 0, "diverged": 1, "oom": 1, "interrupted": 130}
VERDICT_FIELDS = (
    *("certified_fraction", "certified", "verbatim", "recall_exact", "exact_match"),
    *("token_accuracy", "first_error", "min_probability"),
)


@dataclass
class Result:
    """A finished run. `unit` is detached: `result.unit.attach(model)` puts the memory back in place."""

    report: dict
    memories: list[Memory]
    unit: Unit | None = None
    verdict: Verdict | None = None
    held_out: Verdict | None = None  # of memories that were not trained on
    training: Training | None = None


def memorize(
    model: Model,
    memory: Memory | Sequence[Memory],
    *,
    recipe: Recipe | None = None,
    held_out: Sequence[Memory] = (),
    on_metrics: Callable[[float, float, float], None] = lambda done, loss, share: None,
    watch: Watch = lambda items, what: items,
    **options: object,
) -> Result:
    """Write one memory (or several) into one unit, and judge it.

    The options are the fields of `Recipe`: rank, layers, sites, method, steps, lr, seed, …
    held_out: memories that are judged too, but not trained on (does a rule generalise?).
    on_metrics and watch are for progress bars: see `train` and `judge`.
    Returns a `Result` whose report has the fields of the README. The model is left as it was.

    Raises RecipeError for options that no run could use and DataError for a memory that does not
    fit. Divergence, lack of memory and Ctrl-C raise nothing; the report's `status` names them.
    """
    recipe = Recipe(**options) if recipe is None else dataclasses.replace(recipe, **options)
    progress = {"on_metrics": on_metrics, "watch": watch}
    return memorize_together(model, [memory], [recipe], held_out=held_out, **progress)[0]


def memorize_together(
    model: Model,
    memories: Sequence[Memory | Sequence[Memory]],
    recipes: Sequence[Recipe],
    *,
    held_out: Sequence[Memory] = (),
    on_metrics: Callable[[float, float, float], None] = lambda done, loss, share: None,
    watch: Watch = lambda items, what: items,
) -> list[Result]:
    """Several runs at once: each as `memorize` does it, trained and judged as one batch.

    memories: of each run; theirs have the same lengths, and the recipes differ in rank, method, seed, lr,
    clip and zero_active alone. Raises RecipeError if they cannot be trained together.
    """
    memories = [check_fits(each, model.config) for each in memories]
    held_out = check_fits(held_out, model.config) if held_out else []
    kinds = {recipe.companions(own) for recipe, own in zip(recipes, memories, strict=True)}
    if len(recipes) > 1 and (len(kinds) > 1 or None in kinds):
        raise RecipeError("these runs cannot be trained together; train them one by one")
    start = time.monotonic()
    units = [
        Unit.create(model, r.rank, sites=r.sites, layers=r.layers, seed=r.seed, dropout=r.dropout)
        for r in recipes
    ]
    lrs = [recipe.learning_rate(model) for recipe in recipes]
    results = [Result({}, own, unit) for own, unit in zip(memories, units, strict=True)]
    base_losses: list[float | None] = [None] * len(results)
    status, judged = "ok", 0
    try:
        batches = [Batch(own, model.config.context, model.device) for own in memories]
        known: dict[tuple[Memory, ...], float] = {}
        for n, (own, batch) in enumerate(zip(memories, batches, strict=True)):
            if tuple(own) not in known:
                known[tuple(own)] = teacher_forced(model, batch)[0].mean().item()
            base_losses[n] = known[tuple(own)]
        everything = Batch([m for own in memories for m in own], model.config.context, model.device)
        trained = train(
            model,
            units,
            everything,
            recipes,
            lrs=lrs,
            certify=lambda run: is_certified(model, batches[run]),
            on_metrics=on_metrics,
        )
        for result, training in zip(results, trained, strict=True):
            result.training = training
        for result, verdict in zip(
            results, judge_units(model, units, memories, watch), strict=True
        ):
            result.verdict = verdict
            if held_out:
                result.held_out = next(judge_units(model, [result.unit], [held_out], watch))
            judged += 1
    except KeyboardInterrupt:  # what was trained is still there to be saved
        status = "interrupted"
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        status = "oom"
    finally:
        for unit in units:
            if unit.model is not None:
                unit.detach()
    seconds = round((time.monotonic() - start) / len(results), 3)
    for n, (result, recipe, lr, base_loss) in enumerate(
        zip(results, recipes, lrs, base_losses, strict=True)
    ):
        result.training = result.training or Training()
        if n >= judged:
            result.training.status = status
        result.report = make_report(model, result, recipe, lr, base_loss) | {
            "wall_seconds": seconds
        }
    return results


def make_report(
    model: Model, result: Result, recipe: Recipe, lr: float | None, base_loss: float | None
) -> dict:
    """The report's fields, in the README's order; null where a run did not get that far."""
    unit, verdict, training, memories = (
        result.unit,
        result.verdict,
        result.training,
        result.memories,
    )
    length, parameters = sum(m.length for m in memories), unit.trainable_parameters()
    ratios, entropies = {m.ratio for m in memories}, [m.entropy for m in memories]
    report = {
        "model": model.name,
        "revision": model.revision,
        "rank": recipe.rank,
        "length": length,
        "memories": len(memories),
        "ratio": ratios.pop() if len(ratios) == 1 else None,
        "layer": unit.layers[0] if len(unit.layers) == 1 else unit.layers,
        "site": ",".join(recipe.sites),
        "method": recipe.method,
        "seed": recipe.seed,
        "steps": training.steps,
        "optimizer": recipe.optimizer,
        "lr": lr,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "trainable_parameters": parameters,
        "entropy": None,
        "base_loss": base_loss,
    }
    status = training.status
    if (
        verdict is not None
        and status == "ok"
        and not verdict.certified
        and not verdict.loss <= base_loss
    ):
        status = "diverged"  # finite, but worse than before
    loss = verdict.loss if verdict else None
    judged = verdict is not None and math.isfinite(loss)
    stored = (base_loss - loss) * length / LN2 if judged else None
    memorized = None
    if None not in entropies:
        report["entropy"] = sum(m.entropy * m.length for m in memories) / length
        memorized = max(0.0, report["entropy"] - loss) * length / LN2 if judged else None
    report |= {
        "final_loss": loss,
        "delta_loss": base_loss - loss if judged else None,
        "stored_bits": stored,
        "bits_per_parameter": stored / parameters if judged else None,
        "memorized_bits": memorized,
        "memorized_bits_per_parameter": memorized / parameters if memorized is not None else None,
        "converged": judged and status == "ok" and training.converged,
    }
    for name in VERDICT_FIELDS:
        report[name] = getattr(verdict, name) if judged else None
    held_out = result.held_out if judged else None
    report["held_out_memories"] = len(held_out.lengths) if held_out else 0
    for name in ("loss", "exact_match", "token_accuracy"):
        report[f"held_out_{name}"] = getattr(held_out, name) if held_out else None
    return {key: finite(value) for key, value in report.items()} | {
        "status": status,
        "wall_seconds": None,
        "version": __version__,
    }


def finite(value: object) -> object:
    """JSON has no NaN and no infinity: null instead."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_run(result: Result, model: Model, recipe: Recipe, folder: Path) -> bool:
    """Write the unit and then report.json, which is thus the sign that the run is complete.

    Returns whether there was a unit to write: one that was trained and is finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    usable = result.training.steps > 0 and is_finite(result.unit)
    if usable:
        save_adapter(
            result.unit,
            model,
            folder,
            memories=[dataclasses.asdict(m) for m in result.memories],
            recipe=dataclasses.asdict(recipe),
            report=result.report,
        )
    text = json.dumps(result.report, indent=2) + "\n"
    write_atomically(folder / "report.json", lambda path: path.write_text(text, encoding="utf-8"))
    return usable


def read_run(folder: Path) -> tuple[list[Memory], dict]:
    """The memories and the report of a saved run. Raises AdapterError if the folder holds none."""
    about = read_about(folder)
    try:
        memories = [Memory(**memory) for memory in about["memories"]]
        report = about["report"]
        if not memories or not {"model", "dtype", "final_loss", *VERDICT_FIELDS} <= set(report):
            raise KeyError("memories")
        return memories, dict(report)
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"{folder}: the unit carries no memory to recall; was it saved by tinymem?"
        ) from error


def recall_report(report: dict, verdict: Verdict, model: Model) -> dict:
    """The verdict on a reloaded unit, and whether it agrees with the run's own report."""
    again = {name: finite(getattr(verdict, name)) for name in VERDICT_FIELDS}
    again["final_loss"] = finite(verdict.loss)
    same = all(again[name] == report[name] for name in ("certified", "verbatim", "recall_exact"))
    close = report["final_loss"] is not None and abs(verdict.loss - report["final_loss"]) < 1e-3
    again |= {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
    return {**report, **again, "agrees": same and close}
