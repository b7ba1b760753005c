"""The verdict: does the model recite the memory, and how certain is that?

Certificate (the phase transition of arXiv 2605.30260). If every target token has p > ½ given the
prompt and the target before it, then each of them is the argmax there. By induction greedy
decoding, which starts from the same prompt, yields the target verbatim: one parallel pass is a
proof.

Glossary
    p_t         probability of target token t, given the prompt and the target before it
    certified   every p_t > ½: sufficient for recall
    verbatim    every argmax is the target: necessary and sufficient, from the same pass
    decoded     what greedy decoding, with a KV cache, really yields: the cross-check
    stubborn    a token with p_t ≤ ½; the mean loss hides it, and decoding may derail there

All of this is computed in float32, whatever dtype the model was trained in and whatever shorter
products the program allows (TF32). In bfloat16 a p close to ½, or two logits that are close, come
out differently in different batch shapes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from ..base.model import Model, greedy
from ..base.progress import SILENT, Progress
from ..data.batch import Batch, sequences_per_pass
from ..data.memory import Memories, Memory, check_fits
from ..training.loss import log_probabilities
from ..unit.lora import Unit
from ..unit.stack import Stack

VERDICT_DTYPE = torch.float32


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 numbers in float32 arithmetic."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Verdict:
    """The verdict on one or more memories. The lists have a value for each target token [N]."""

    losses: list[float]  # nats
    predicted: list[int]  # the argmax given the true prefix
    decoded: list[int]  # what greedy decoding yields there
    targets: list[int]
    lengths: list[int]  # of the memories, in tokens; their sum is N
    probabilities: list[float]

    @property
    def loss(self) -> float:
        """L, the mean over the target tokens, nats per token."""
        return sum(self.losses) / len(self.losses)

    @property
    def certified_fraction(self) -> float:
        """Share of the tokens with p_t > ½."""
        return sum(p > 0.5 for p in self.probabilities) / len(self.probabilities)

    @property
    def certified(self) -> bool:
        """Every p_t > ½: proof of recall."""
        return all(p > 0.5 for p in self.probabilities)

    @property
    def min_probability(self) -> float:
        """The lowest p_t."""
        return min(self.probabilities)

    @property
    def stubborn(self) -> list[int]:
        """Positions of the tokens with p_t ≤ ½."""
        return [t for t, p in enumerate(self.probabilities) if not p > 0.5]

    @property
    def verbatim(self) -> bool:
        """Every argmax of the parallel pass is the target, so that decoding recites it."""
        return self.predicted == self.targets

    @property
    def recall_exact(self) -> bool:
        """Decoding did recite it."""
        return self.decoded == self.targets

    @property
    def token_accuracy(self) -> float:
        """Share of the tokens that free decoding got right."""
        return float(np.equal(self.decoded, self.targets).mean())

    @property
    def exact_match(self) -> float:
        """Share of the memories that decoding recites whole."""
        return sum(one.recall_exact for one in self.each()) / len(self.lengths)

    @property
    def first_error(self) -> int | None:
        """Position, in its memory, of the first token that decoding got wrong; None without one."""
        wrong = [t for one in self.each() for t, i in enumerate(one.decoded) if i != one.targets[t]]
        return wrong[0] if wrong else None

    def each(self) -> Iterator["Verdict"]:
        """The verdicts on the memories one by one."""
        for end, length in zip(accumulate(self.lengths), self.lengths, strict=True):
            own = {name: values[end - length : end] for name, values in vars(self).items()}
            yield Verdict(**own | {"lengths": [length]})


def judge(model: Model, memories: Memories, progress: Progress = SILENT) -> Verdict:
    """Judge the memories on the model as it stands (attach a unit first to judge the unit).

    Raises DataError if a memory is longer than the context, or has ids beyond the vocabulary.
    """
    memories = check_fits(memories, model.config)
    batch = Batch(memories, model.config.context, model.device)
    losses, predicted = teacher_forced(model, batch)
    return Verdict(
        losses=losses.tolist(),
        predicted=predicted.tolist(),
        decoded=[i for ids in decode(model, memories, progress) for i in ids],
        targets=batch.targets.tolist(),
        lengths=[m.length for m in memories],
        probabilities=(-losses).exp().tolist(),
    )


@torch.no_grad()
@full_precision()
def teacher_forced(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """One parallel pass: ℓ_t [N] in nats, and the argmax [N], of every target token."""
    losses, predicted = [], []
    size = sequences_per_pass(batch.ids.shape[1])
    for indices in np.split(np.arange(len(batch.ids)), range(size, len(batch.ids), size)):
        part = batch.select(indices)
        x = model.norm(model.run(model.embed(part.ids, dtype=VERDICT_DTYPE))[part.rows])
        for rows, logp in log_probabilities(x, model.lm_head.weight):
            losses.append(-logp.gather(-1, part.targets[rows, None]).squeeze(-1))
            predicted.append(logp.argmax(-1))
    return torch.cat(losses), torch.cat(predicted)


@full_precision()
def decode(model: Model, memories: Sequence[Memory], progress: Progress) -> list[list[int]]:
    """Greedy decoding from each prompt, as many tokens as its target has.

    Prompts of one length are decoded together, those with the longest targets first.
    """
    out: dict[int, list[int]] = {}
    for size in sorted({len(m.prompt_ids) for m in memories}):
        group = [n for n, m in enumerate(memories) if len(m.prompt_ids) == size]
        group.sort(key=lambda n: -memories[n].length)
        while group:
            steps = memories[group[0]].length
            count = sequences_per_pass(size + steps)
            now, group = group[:count], group[count:]
            prompts = torch.tensor([memories[n].prompt_ids for n in now], device=model.device)
            ids = greedy(model, prompts, steps, VERDICT_DTYPE, progress).tolist()
            out |= {n: row[: memories[n].length] for n, row in zip(now, ids, strict=True)}
    return [out[n] for n in range(len(memories))]


def judge_units(
    model: Model, units: Sequence[Unit], memories: Sequence[Sequence[Memory]], progress: Progress
) -> Iterator[Verdict]:
    """The verdict on each unit and its own memories, in turn; no unit is left attached.

    Units that have one memory each, all of the same lengths, are judged as a stack, as many at once
    as fit in one forward pass.
    """
    first, *others = memories[0]
    width = 1 if others else sequences_per_pass(len(first.prompt_ids) + first.length)
    for start in range(0, len(units), width):
        part, own = units[start : start + width], memories[start : start + width]
        unit = Stack(part) if len(part) > 1 else part[0]
        unit.attach(model).train(False)  # no dropout
        try:
            verdict = judge(model, [m for ms in own for m in ms], progress)
        finally:
            unit.detach()
        yield from verdict.each() if len(part) > 1 else [verdict]
