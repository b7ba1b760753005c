"""Judges memories on a model, with an adapter and without it.

The verdict is that of experiment/recall.py. What an adapter changes is measured on the same target
tokens in one parallel pass each, in float32.

Glossary
    base_loss       mean loss of the target without the adapter, nats per token; unknown (None)
                    without an adapter, because the model before its training is not at hand
    final_loss      mean loss of the target on what is judged: the model, or model and adapter
    adapter_change  the largest change of a logit, over all target tokens and the whole vocabulary
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..base.arithmetic import full_precision
from ..base.model import Model
from ..base.progress import Progress
from ..data.batch import Batch, sequences_per_pass
from ..data.memory import Memory
from ..experiment.recall import Verdict, judge, teacher_forced
from ..experiment.report import VERDICT_FIELDS, count_bits, is_thin, pick, place_of
from ..files import without_nan
from ..training.loss import CHUNK
from ..unit.lora import Unit, left_bare


@dataclass(frozen=True)
class Comparison:
    """The target tokens of memories without and with an adapter [N]; without one, both are equal.

    Losses in nats, margins in logits. change: the largest change of a logit; None: no adapter.
    """

    base_losses: list[float]
    base_margins: list[float]
    losses: list[float]
    margins: list[float]
    change: float | None


@dataclass(frozen=True)
class Judged:
    """Memories, the verdict on them, and what the adapter changes."""

    memories: list[Memory]
    verdict: Verdict  # of what is judged: the model, with the adapter if there is one
    compared: Comparison


def judge_memories(
    model: Model, unit: Unit | None, memories: Sequence[Memory], progress: Progress
) -> Judged:
    """The verdict on memories that fit the model; `unit` is detached, before and afterwards."""
    compared = compare(model, unit, memories, progress)
    with left_bare(model, [unit] if unit else []):
        if unit:
            unit.attach(model).train(False)
        return Judged(list(memories), judge(model, memories, progress), compared)


@torch.no_grad()
@full_precision()
def compare(
    model: Model, unit: Unit | None, memories: Sequence[Memory], progress: Progress
) -> Comparison:
    """One pass over the memories without the unit, which is detached, and one with it."""
    lists: list[list[float]] = [[], [], [], []]
    change = torch.zeros((), device=model.device)
    for part in progress.track(list(parts(memories)), "comparing"):
        batch = Batch(part, model.config.context, model.device)
        base = own = teacher_forced(model, batch)
        if unit:
            with left_bare(model, [unit]):
                unit.attach(model).train(False)
                own = teacher_forced(model, batch)
            largest = largest_change(own.states - base.states, model.lm_head.weight)
            change = torch.maximum(change, largest)  # keeps a NaN
        found = base.losses, base.margins, own.losses, own.margins
        for values, new in zip(lists, found, strict=True):
            values += new.tolist()
    a, b, c, d = lists
    return Comparison(a, b, c, d, change.item() if unit else None)


def parts(memories: Sequence[Memory]) -> Iterator[Sequence[Memory]]:
    """The memories, in order, as many at a time as fit in one forward pass."""
    positions = max(len(m.prompt_ids) + m.length for m in memories)
    size = sequences_per_pass(positions)
    for start in range(0, len(memories), size):
        yield memories[start : start + size]


def largest_change(difference: Tensor, head: Tensor) -> Tensor:
    """The largest |W d_t|, over the rows d_t of a difference of states [N, d]; head: W [V, d]."""
    columns = max(1, CHUNK // head.shape[1])
    most = difference.new_zeros(())
    for rows in difference.split(max(1, CHUNK // len(head))):
        for part in head.split(columns):
            most = torch.maximum(most, (rows @ part.to(rows.dtype).t()).abs().amax())
    return most


# --- The report ----------------------------------------------------------------------------------


def describe_adapter(name: str | None, unit: Unit | None) -> dict[str, Any]:
    """The fields about the adapter; None without one."""
    if unit is None:
        return dict.fromkeys(("adapter", "rank", "layer", "site", "trainable_parameters"))
    layers, sites = unit.layers, sorted({path.split(".", 2)[2] for path in unit.loras})
    return {
        "adapter": name,
        "rank": unit.rank,
        "layer": layers[0] if len(layers) == 1 else layers,
        "site": ",".join(sites),
        "trainable_parameters": unit.trainable_parameters(),
    }


def judge_report(model: Model, adapter: dict[str, Any], judged: Judged, took: float) -> dict:
    """The fields of a run's report that apply, and `adapter_change`. took: seconds."""
    verdict, compared = judged.verdict, judged.compared
    parameters = adapter["trainable_parameters"]
    base_loss = float(np.mean(compared.base_losses)) if parameters else math.nan
    losses = base_loss, verdict.loss, verdict.calibrated_loss or 0.0
    bits = count_bits(judged.memories, parameters or 1, *losses)
    report = {
        **{"model": model.name, "revision": model.revision},
        **place_of(model),
        **{"memories": len(judged.memories), "base_loss": base_loss, "final_loss": verdict.loss},
        **{k: v if parameters or k in ("length", "entropy") else None for k, v in bits.items()},
        **adapter,
        **pick(verdict, *VERDICT_FIELDS),
        "thin": is_thin(verdict, model),
        "adapter_change": compared.change,
        "status": "ok",
        **{"wall_seconds": round(took, 3), "version": __version__},
    }
    return {name: without_nan(value) for name, value in report.items()}


def by_memory(verdict: Verdict) -> list[Any]:
    """The fields of the verdict on each memory, in their order."""
    rows, stops = [], np.cumsum(verdict.lengths).tolist()
    for number, (stop, length) in enumerate(zip(stops, verdict.lengths, strict=True)):
        own = slice(stop - length, stop)
        positive = np.greater(verdict.margins[own], 0)
        right = np.equal(verdict.decoded[own], verdict.targets[own])
        row = {
            **{"memory": number, "length": length},
            "final_loss": float(np.mean(verdict.losses[own])),
            "min_margin": min(verdict.margins[own]),
            "argmax_accuracy": float(positive.mean()),
            "verbatim": bool(positive.all()),
            "recall_exact": bool(right.all()),
            "token_accuracy": float(right.mean()),
            "first_error": None if right.all() else int(right.argmin()),
        }
        rows.append(without_nan(row))
    return rows
