"""Judges memories, or the windows of a document, on a model, with an adapter and without it.

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
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..base.arithmetic import full_precision
from ..base.model import Model
from ..base.progress import Progress
from ..data.batch import Batch
from ..data.memory import Memory
from ..experiment.recall import Verdict, judge, teacher_forced
from ..experiment.report import VERDICT_FIELDS, count_bits, is_thin, pick, place_of
from ..files import without_nan
from ..training.loss import CHUNK
from ..unit.adapter import is_own
from ..unit.lora import Unit
from ..unit.sites import family_path
from .capacity import compare_with_study
from .windows import AT_ONCE, Audit, Document, audit

SAMPLE = 32  # windows of a document on which the adapter is compared with its base


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
    """What was judged: memories, with the verdict on them; or a document, with its audit."""

    memories: list[Memory]  # of a document, some of its windows, spread evenly
    compared: Comparison  # on these memories
    verdict: Verdict | None = None  # with the adapter, if there is one
    audit: Audit | None = None

    @property
    def base_verbatim(self) -> bool | None:
        """Whether all memories are recited without the adapter, too; None of a document."""
        return None if self.audit else all(m > 0 for m in self.compared.base_margins)

    @property
    def recited(self) -> list[bool]:
        """Of each memory or window, whether it is recited.

        A memory counts twice, by its margins and by decoding: where rounding makes them differ, it
        is neither recited for sure nor not recited.
        """
        if self.audit:
            return [right == self.audit.document.window for right in self.audit.right]
        rows = by_memory(self.verdict) if self.verdict else []
        return [row[name] for row in rows for name in ("verbatim", "recall_exact")]


def judge_memories(
    model: Model, unit: Unit | None, memories: Sequence[Memory], progress: Progress
) -> Judged:
    """The verdict on memories that fit the model; `unit` is detached, before and afterwards."""
    compared = compare(model, unit, memories, progress)
    with unit.attached(model) if unit else nullcontext():
        return Judged(list(memories), compared, judge(model, memories, progress))


def judge_document(
    model: Model, unit: Unit | None, document: Document, progress: Progress
) -> Judged:
    """The audit of a document (windows.py); `unit` is detached, before and afterwards."""
    memories = document.spread(SAMPLE)
    compared = compare(model, unit, memories, progress)
    return Judged(memories, compared, audit=audit(model, unit, document, progress))


@torch.no_grad()
@full_precision()
def compare(
    model: Model, unit: Unit | None, memories: Sequence[Memory], progress: Progress
) -> Comparison:
    """One pass over the memories without the unit, which is detached, and one with it."""
    base_losses, base_margins, losses, margins = lists = [list[float]() for _ in range(4)]
    change = torch.zeros((), device=model.device)
    for part in progress.track(list(parts(memories)), "comparing"):
        batch = Batch(part, model.config.context, model.device)
        base = own = teacher_forced(model, batch)
        if unit:
            with unit.attached(model):
                own = teacher_forced(model, batch)
            largest = largest_change(own.states - base.states, model.lm_head.weight)
            change = torch.maximum(change, largest)  # keeps a NaN
        found = base.losses, base.margins, own.losses, own.margins
        for values, new in zip(lists, found, strict=True):
            values += new.tolist()
    most = change.item() if unit else None
    return Comparison(base_losses, base_margins, losses, margins, most)


def parts(memories: Sequence[Memory]) -> Iterator[Sequence[Memory]]:
    """The memories, in order, so few at a time that the bar moves."""
    size = max(1, AT_ONCE // max(len(m.prompt_ids) + m.length for m in memories))
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


def judge_report(
    model: Model, unit: Unit | None, judged: Judged, named: dict[str, Any], took: float
) -> dict[str, Any]:
    """The fields of a run's report that apply, and those of `judge` alone.

    named: `adapter`, `base` and `same_base`, as the command line knows them. took: seconds.
    """
    verdict, document = judged.verdict, judged.audit.document if judged.audit else None
    loss = float(np.mean(judged.compared.losses)) if verdict is None else verdict.loss
    base_loss = float(np.mean(judged.compared.base_losses)) if unit else math.nan
    best_loss = math.nan if verdict is None else verdict.calibrated_loss or 0.0
    parameters = unit.trainable_parameters() if unit else 1
    bits = count_bits(judged.memories, parameters, base_loss, loss, best_loss)
    if unit is None or document:  # bits of a unit, about all of a memory
        bits |= {name: None for name in bits if "bits" in name}
    bits |= {"length": len(document.ids)} if document else {}
    report = {
        **{"model": model.name, "revision": model.revision, **named, **describe(model, unit)},
        **{"memories": None if document else len(judged.memories), **place_of(model)},
        **{"base_loss": base_loss, "final_loss": loss},
        **{name: value for name, value in bits.items() if name != "trainable_parameters"},
        **pick(verdict, *VERDICT_FIELDS),
        "thin": is_thin(verdict, model) if verdict else None,
        "base_verbatim": judged.base_verbatim if unit else None,
        "adapter_change": judged.compared.change,
        "windows": judged.audit and judged.audit.as_dict() | {"compared": len(judged.memories)},
        "capacity": capacity(unit, bits["length"]) if unit else None,
        "by_memory": by_memory(verdict) if verdict else None,
        "status": "interrupted" if judged.audit and judged.audit.interrupted else "ok",
        **{"wall_seconds": round(took, 3), "version": __version__},
    }
    return {name: without_nan(value) for name, value in report.items()}


def describe(model: Model, unit: Unit | None) -> dict[str, Any]:
    """The fields of a report about a unit; None without one."""
    if unit is None:
        return dict.fromkeys(("rank", "layer", "site", "trainable_parameters"))
    layers = unit.layers
    paths = [path if is_own(path) else family_path(model, path) for path in unit.loras]
    sites = sorted({path.rpartition(".")[2] for path in paths})
    about = {"rank": unit.rank, "layer": layers[0] if len(layers) == 1 else layers}
    return about | {
        "site": ",".join(sites),
        "trainable_parameters": unit.trainable_parameters(),
    }


def capacity(unit: Unit, length: int) -> dict[str, Any]:
    """How much of an adapter a text of this length takes."""
    ranks = {lora.A.shape[-1] for lora in unit.loras.values()}
    rank = ranks.pop() if len(ranks) == 1 else None
    return compare_with_study(length, unit.trainable_parameters(), rank)


def by_memory(verdict: Verdict) -> list[dict[str, Any]]:
    """The fields of the verdict on each memory, in their order."""
    rows, stops = [], np.cumsum(verdict.lengths).tolist()
    for number, (stop, length) in enumerate(zip(stops, verdict.lengths, strict=True)):
        own = slice(stop - length, stop)
        positive = np.greater(verdict.margins[own], 0)
        right = np.equal(verdict.decoded[own], verdict.targets[own])
        row = {
            **{"memory": number, "length": length},
            "final_loss": float(np.mean(verdict.losses[own])),
            "min_margin": float(np.min(verdict.margins[own])),
            "argmax_accuracy": float(positive.mean()),
            "verbatim": bool(positive.all()),
            "recall_exact": bool(right.all()),
            "token_accuracy": float(right.mean()),
            "first_error": None if right.all() else int(right.argmin()),
        }
        rows.append({name: without_nan(value) for name, value in row.items()})
    return rows
