"""The verdict: will the model recite the memory, and how sure is that?

Certificate (the phase transition of arXiv 2605.30260). If every target token has p > ½ given the
prompt and the target before it, then each is the argmax there; by induction greedy decoding, which
starts from the same prompt, yields the target verbatim. One parallel pass is proof, without decoding.

Glossary
    p_t         probability of target token t, given the prompt and the target before it
    certified   every p_t > ½                  sufficient
    verbatim    every argmax is the target     necessary and sufficient, from the same pass
    decoded     real greedy decoding           the cross-check, with a KV cache

Mean loss hides a single *stubborn* token (p ≤ ½); decoding may derail there and stay off the rails.
All three are computed in float32, whatever the model was trained in, and whatever shorter products the
program allows (TF32): in bfloat16 a p close to ½, or two close logits, fall differently from one way of
computing to the next.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from ..base.model import Model, greedy
from ..data.batch import Batch, together
from ..data.memory import Memory, check_fits
from ..training.loss import log_probabilities
from ..unit.lora import Unit

VERDICT_DTYPE = torch.float32
Watch = Callable[[Iterable, str], Iterable]


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
    """Per target token, memory after memory; each a list of length N."""

    losses: list[float]  # nats
    predicted: list[int]  # the argmax given the true prefix
    decoded: list[int]  # what greedy decoding wrote there
    targets: list[int]
    lengths: list[int]  # N split into memories
    probabilities: list[float]

    @property
    def loss(self) -> float:
        """L, mean over the target tokens, nats per token."""
        return sum(self.losses) / len(self.losses)

    @property
    def certified_fraction(self) -> float:
        return sum(p > 0.5 for p in self.probabilities) / len(self.probabilities)

    @property
    def certified(self) -> bool:
        """Every p_t > ½: proof of recall."""
        return all(p > 0.5 for p in self.probabilities)

    @property
    def min_probability(self) -> float:
        return min(self.probabilities)

    @property
    def stubborn(self) -> list[int]:
        """Positions of the tokens with p ≤ ½."""
        return [t for t, p in enumerate(self.probabilities) if not p > 0.5]

    @property
    def verbatim(self) -> bool:
        """Every argmax of the parallel pass is the target: decoding will recite it."""
        return self.predicted == self.targets

    @property
    def recall_exact(self) -> bool:
        """Decoding did recite it."""
        return self.decoded == self.targets

    @property
    def token_accuracy(self) -> float:
        """Share of tokens that free decoding got right."""
        return sum(a == b for a, b in zip(self.decoded, self.targets, strict=True)) / len(
            self.targets
        )

    @property
    def exact_match(self) -> float:
        """Share of the memories that decoding recites whole."""
        return sum(one.recall_exact for one in self.each()) / len(self.lengths)

    @property
    def first_error(self) -> int | None:
        """Position, in its memory, of the first token that decoding got wrong; None if there is none."""
        for one in self.each():
            for t, (a, b) in enumerate(zip(one.decoded, one.targets, strict=True)):
                if a != b:
                    return t
        return None

    def each(self) -> Iterator["Verdict"]:
        """The verdicts on the memories one by one."""
        tokens = (self.losses, self.predicted, self.decoded, self.targets, self.probabilities)
        for end, length in zip(accumulate(self.lengths), self.lengths, strict=True):
            losses, predicted, decoded, targets, p = (
                values[end - length : end] for values in tokens
            )
            yield Verdict(losses, predicted, decoded, targets, [length], p)


@torch.no_grad()
@full_precision()
def teacher_forced(
    model: Model, batch: Batch, dtype: torch.dtype = VERDICT_DTYPE
) -> tuple[Tensor, Tensor]:
    """One parallel pass: ℓ_t [N] in nats, and the argmax [N], for every target token."""
    memories, parts = np.arange(len(batch.ids)), []
    for start in range(0, len(memories), together(batch.ids.shape[1])):
        part = batch.select(memories[start : start + together(batch.ids.shape[1])])
        x = model.norm(model.run(model.embed(part.ids, dtype=dtype))[part.rows])
        for rows, logp in log_probabilities(x, model.lm_head.weight):
            losses = -logp.gather(-1, part.targets[rows, None]).squeeze(-1)
            parts.append((losses, logp.argmax(-1)))
    losses, predicted = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(predicted)


def is_certified(model: Model, batch: Batch) -> bool:
    """Does every target token have p > ½, in the verdict's arithmetic?"""
    return bool(((-teacher_forced(model, batch)[0]).exp() > 0.5).all())


@full_precision()
def decode(
    model: Model, memories: Sequence[Memory], watch: Watch = lambda items, what: items
) -> list[list[int]]:
    """Greedy decoding from each prompt, as many tokens as its target has.

    Prompts of one length are decoded together, those with the longest targets first.
    """
    out: dict[int, list[int]] = {}
    for size in sorted({len(m.prompt_ids) for m in memories}):
        group = [n for n, m in enumerate(memories) if len(m.prompt_ids) == size]
        group.sort(key=lambda n: -memories[n].length)
        while group:
            steps = memories[group[0]].length
            now, group = group[: together(size + steps)], group[together(size + steps) :]
            prompts = torch.tensor([memories[n].prompt_ids for n in now], device=model.device)
            bar = SimpleNamespace(track=watch)
            ids = greedy(model, prompts, steps, VERDICT_DTYPE, bar).tolist()
            out |= {n: row[: memories[n].length] for n, row in zip(now, ids, strict=True)}
    return [out[n] for n in range(len(memories))]


def judge(
    model: Model, memories: Memory | Sequence[Memory], watch: Watch = lambda items, what: items
) -> Verdict:
    """Judge the memories on the model as it stands (attach a unit first to judge the unit).

    watch: wraps the iteration over decoded tokens, for a progress bar.
    Raises DataError if a memory is longer than the context, or beyond the vocabulary.
    """
    memories = check_fits(memories, model.config)
    batch = Batch(memories, model.config.context, model.device)
    losses, predicted = teacher_forced(model, batch)
    return Verdict(
        losses=losses.tolist(),
        predicted=predicted.tolist(),
        decoded=[i for ids in decode(model, memories, watch) for i in ids],
        targets=batch.targets.tolist(),
        lengths=[m.length for m in memories],
        probabilities=(-losses).exp().tolist(),
    )


def judge_units(
    model: Model,
    units: Sequence[Unit],
    memories: Sequence[Sequence[Memory]],
    watch: Watch = lambda items, what: items,
) -> Iterator[Verdict]:
    """The verdict on each unit and its own memories, in turn; none is left attached.

    Units of one memory each, all of the same lengths, are judged as a stack, as many as fit at once.
    """
    first = memories[0][0]
    width = together(len(first.prompt_ids) + first.length) if len(memories[0]) == 1 else 1
    for start in range(0, len(units), width):
        part, own = units[start : start + width], memories[start : start + width]
        unit = Unit.stack(part) if len(part) > 1 else part[0]
        unit.attach(model).train(False)  # no dropout
        try:
            verdict = judge(model, [m for ms in own for m in ms], watch)
        finally:
            unit.detach()
        yield from verdict.each() if len(part) > 1 else [verdict]
