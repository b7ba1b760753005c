"""The result of a run, and the fields of its report.

Bits (ΔL is the paper's, arXiv 2605.30260; stored and memorized bits are tinymem's)
    L₀, L       mean loss of the target without and with the unit, nats per token
    H           entropy of a target of uniformly random tokens, nats per token
    ΔL          L₀ − L
    stored      ΔL · ℓ / ln 2, bits
    memorized   max(0, H − L) · ℓ / ln 2, bits, where the target is random: what the unit knows
                about the memory itself. Stored bits also count the unlearning of the base model's
                prior, L₀ − H
    calibrated  the same at the readout temperature, where L is lowest (readout.py). A memory that
                is recited is there whole: ℓ · H / ln 2
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import __version__
from ..base.model import Model
from ..data.memory import Memory
from ..files import without_nan
from ..shown import ShownTokens
from ..training.margin import thin_for
from ..training.memft import LN2
from ..training.recipe import Recipe
from ..training.record import Training
from ..unit.lora import Unit
from .recall import Verdict


@dataclass(repr=False)
class Result(ShownTokens):
    """A finished run. `unit` is detached; `with result.unit.attached(model):` puts it in place."""

    report: dict[str, Any]  # the fields of `Report`
    memories: list[Memory]
    unit: Unit
    verdict: Verdict | None = None
    held_out: Verdict | None = None  # on memories that were not trained on
    training: Training = field(default_factory=Training)


def about(meaning: str, unit: str = "") -> Any:
    """A field of the report, with what the reference page says about it."""
    return field(metadata={"meaning": meaning, "unit": unit})


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of one run: `report.json`, and most of a sweep's row. None: not known."""

    model: str = about("the base model: tiny, a hub id or a folder")
    revision: str | None = about("the commit of a hub id that was loaded; of a folder, as given")
    rank: int = about("rank r of the unit")
    length: int = about("length ℓ of the target, of all memories together", "tokens")
    memories: int = about("memories in the unit")
    ratio: int | None = about("share of the target that is random tokens", "percent")
    layer: int | list[int] = about("layer of the unit, from 0; a list of several")  # noqa: RUF009
    site: str = about("mlp, or the names of Linear sites with commas between")
    method: str = about("how the unit was trained: sft, memft-ot, memft-sw or margin")
    seed: int = about("seed of the random tokens and of the unit")
    steps: int = about("steps done; for lbfgs, evaluations of the gradient")
    optimizer: str = about("adamw or lbfgs")
    lr: float | None = about("the largest learning rate of the run; null for lbfgs")
    device: str = about("where the base model was: cpu, cuda")
    dtype: str = about("dtype of the base model; units are float32")
    trainable_parameters: int = about("values in A and B")
    entropy: float | None = about("H of the target; null unless it is all random", "nats/token")
    base_loss: float | None = about("L₀, mean loss of the target without the unit", "nats/token")
    final_loss: float | None = about("L, mean loss of the target with the unit", "nats/token")
    delta_loss: float | None = about("ΔL = L₀ − L", "nats/token")
    stored_bits: float | None = about("ΔL · ℓ / ln 2", "bits")
    bits_per_parameter: float | None = about("stored bits / trainable parameters", "bits")
    memorized_bits: float | None = about("max(0, H − L) · ℓ / ln 2; null where H is", "bits")
    memorized_bits_per_parameter: float | None = about("of these, per parameter", "bits")
    calibrated_bits_per_parameter: float | None = about(
        "memorized bits at the readout temperature, per parameter; all of ℓ · H / ln 2 if recited",
        "bits",
    )
    converged: bool = about(
        "the loss (margin: the share of wrong tokens) fell by < 0.01 over the last 30 % of steps"
    )
    certified_fraction: float | None = about("share of the target tokens with p > ½", "0 to 1")
    certified: bool | None = about("every target token has p > ½: the paper's proof of recall")
    verbatim: bool | None = about("every margin is above 0: recited, proof from one pass")
    argmax_accuracy: float | None = about("share of the tokens with a margin above 0", "0 to 1")
    recall_exact: bool | None = about("greedy decoding yields the whole target")
    exact_match: float | None = about("share of the memories that decoding recites", "0 to 1")
    token_accuracy: float | None = about("share of the tokens that decoding got right", "0 to 1")
    first_error: int | None = about("position of the first token that decoding got wrong")
    min_probability: float | None = about("lowest p of a target token", "0 to 1")
    min_margin: float | None = about("lowest logit of a target less the largest other", "logits")
    thin: bool | None = about("recited, but rounding in `dtype` can reverse the lowest margin")
    first_uncertified: int | None = about("position of the first token with p ≤ ½")
    readout_temperature: float | None = about("T at which the loss is lowest; null if recited")
    calibrated_loss: float | None = about("the mean loss there; null if recited", "nats/token")
    held_out_memories: int = about("memories that were judged, but not trained on")
    held_out_loss: float | None = about("mean loss of the held-out targets", "nats/token")
    held_out_exact_match: float | None = about("share of them that decoding recites", "0 to 1")
    held_out_token_accuracy: float | None = about("share of their tokens decoded right", "0 to 1")
    ended: str | None = about(
        "why training ended: recited, certified, still (it stood still), or steps (all were done)"
    )
    status: str = about("ok, diverged, oom (out of memory) or interrupted")
    wall_seconds: float = about("time; of runs trained together, each one's share", "seconds")
    version: str = about("version of tinymem")


# Those of a verdict, from certified_fraction to calibrated_loss.
VERDICT_FIELDS = tuple(name for name in Report.__annotations__ if hasattr(Verdict, name))
AGREEMENT = ("certified", "verbatim", "recall_exact")  # what a reloaded unit must have again
HELD_OUT_FIELDS = ("loss", "exact_match", "token_accuracy")


def pick(source: object, *names: str) -> dict[str, Any]:
    """These attributes as a dict; None for all of them if the source is None."""
    return {name: getattr(source, name, None) for name in names}


def is_thin(verdict: Verdict, model: Model) -> bool:
    """It is recited, but arithmetic in the base model's dtype can reverse the lowest margin."""
    return verdict.verbatim and verdict.min_margin <= thin_for(model.dtype)


def place_of(model: Model) -> dict[str, Any]:
    return {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}


def make_report(model: Model, recipe: Recipe, run: Result, base_loss: float, took: float) -> dict:
    """The fields of `Report`; None in those that the run did not get as far as.

    base_loss: NaN if it is unknown. took: seconds.
    """
    judged = run.verdict if run.verdict and math.isfinite(run.verdict.loss) else None
    others, loss = (run.held_out, judged.loss) if judged else (None, math.nan)
    best_loss = (judged.calibrated_loss or 0.0) if judged else math.nan
    ratios, layers = {m.ratio for m in run.memories}, run.unit.layers
    report = Report(
        **pick(model, "revision"),
        **pick(recipe, "rank", "method", "seed", "optimizer"),
        **pick(run.training, "steps", "status"),
        ended=run.training.ended if run.training.status == "ok" else None,
        **pick(judged, *VERDICT_FIELDS),
        **{f"held_out_{k}": v for k, v in pick(others, *HELD_OUT_FIELDS).items()},
        **count_bits(run.memories, run.unit.trainable_parameters(), base_loss, loss, best_loss),
        **place_of(model),
        thin=is_thin(judged, model) if judged else None,
        model=model.name,
        memories=len(run.memories),
        ratio=ratios.pop() if len(ratios) == 1 else None,
        layer=layers[0] if len(layers) == 1 else layers,
        site=",".join(recipe.sites),
        lr=recipe.learning_rate(model),
        base_loss=base_loss,
        final_loss=loss,
        converged=judged is not None and run.training.converged,
        held_out_memories=len(others.lengths) if others else 0,
        wall_seconds=round(took, 3),
        version=__version__,
    )
    return {name: without_nan(value) for name, value in asdict(report).items()}


def count_bits(
    memories: Sequence[Memory], parameters: int, base_loss: float, loss: float, best_loss: float
) -> dict:
    """The fields from length to bits, by the definitions at the top; NaN stands for unknown.

    best_loss: at the best temperature; 0 if the memories are recited.
    """
    length = sum(m.length for m in memories)
    known = [math.nan if m.entropy is None else m.entropy * m.length for m in memories]
    entropy, delta_loss = sum(known) / length, base_loss - loss
    stored = delta_loss * length / LN2
    memorized = max(entropy - loss, 0.0) * length / LN2  # max(NaN, 0.0), in this order, is NaN
    calibrated = max(entropy - best_loss, 0.0) * length / LN2
    return {
        **{"length": length, "trainable_parameters": parameters},
        **{"entropy": entropy, "delta_loss": delta_loss},
        **{"stored_bits": stored, "bits_per_parameter": stored / parameters},
        **{"memorized_bits": memorized, "memorized_bits_per_parameter": memorized / parameters},
        **{"calibrated_bits_per_parameter": calibrated / parameters},
    }


def recall_report(
    report: Mapping[str, Any], memories: Sequence[Memory], verdict: Verdict, model: Model
) -> dict[str, Any]:
    """The report with the verdict on a reloaded unit, the loss and the bits that follow from it.

    `agrees` says whether the run's own report has the same verdict, and nearly the same loss.
    """
    base_loss = math.nan if report["base_loss"] is None else report["base_loss"]
    losses = base_loss, verdict.loss, verdict.calibrated_loss or 0.0
    again = {"final_loss": verdict.loss, **pick(verdict, *VERDICT_FIELDS), **place_of(model)}
    again |= {"thin": is_thin(verdict, model)}
    again |= count_bits(memories, report["trainable_parameters"], *losses)
    same = all(again[name] == report[name] for name in AGREEMENT)
    close = report["final_loss"] is not None and abs(verdict.loss - report["final_loss"]) < 1e-3
    known = {name: without_nan(value) for name, value in again.items()}
    return {**report, **known, "agrees": same and close}
