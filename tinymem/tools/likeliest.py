"""Finds the likeliest tokens at each place of a target, given the true tokens before it."""

from collections.abc import Sequence

import torch

from ..base.arithmetic import full_precision
from ..base.model import Model
from ..base.progress import SILENT, Progress
from ..data.batch import Batch
from ..data.memory import Memory
from ..experiment.recall import teacher_forced
from ..training.loss import log_probabilities
from .judge import parts


@torch.no_grad()
@full_precision()
def likeliest(
    model: Model, memories: Sequence[Memory], k: int = 5, progress: Progress = SILENT
) -> list[list[tuple[int, float]]]:
    """For each target token of all memories: the k likeliest token ids there, and their p.

    The likeliest comes first. One parallel pass in float32, as the verdict's. A unit that is
    attached takes part, so it must not be in training.
    """
    found = []
    for part in progress.track(list(parts(memories)), "likeliest tokens"):
        states = teacher_forced(model, Batch(part, model.config.context, model.device)).states
        for _, logp in log_probabilities(states, model.lm_head.weight):
            best = logp.topk(min(k, logp.shape[-1]))
            for ids, values in zip(best.indices.tolist(), best.values.exp().tolist(), strict=True):
                found.append(list(zip(ids, values, strict=True)))
    return found
