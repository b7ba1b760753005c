"""The verdict: does the model recite the memory, and how certain is that?

Greedy decoding writes the token with the largest logit. The margin of a target token is its logit
less the largest other one, given the prompt and the true target before it. If every margin is
above 0, the first token is decoded right, so the second is decoded after the true prefix, and so on
(induction); and where a margin is below 0, decoding leaves the target there at the latest. One
parallel pass over the target is therefore a proof of recall or of its failure, in the arithmetic of
that pass.

The certificate of arXiv 2605.30260 (its phase transition) is the stronger notion: p > ½ for every
token implies that every margin is above 0, but it is not necessary.

Glossary
    m_t         margin of target token t, in logits
    p_t         its probability, given the prompt and the target before it
    verbatim    every m_t > 0, in short: recited. Necessary and sufficient for recall
    thin        recited, but rounding in the dtype of the base can reverse the lowest m_t (THIN in
                margin.py): the base itself may decode differently, or in another batch shape
    certified   every p_t > ½: sufficient for recall
    decoded     what greedy decoding, with a KV cache, really yields: the cross-check
    stubborn    a token with m_t ≤ 0, at which decoding fails; or one that only the certificate
                lacks: it is the likeliest, with p_t ≤ ½

A tie, m_t = 0, does not count as recited. Of equal logits greedy decoding takes the token with the
lowest id, so the outcome would depend on how the tokens are numbered; and any other order of
additions may break the tie.

All of this is computed in float32, whatever dtype the model was trained in and whatever shorter
products the program allows (TF32). In bfloat16 a p close to ½, or two logits that are close, come
out differently in different batch shapes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..base.arithmetic import full_precision
from ..base.model import Model, greedy
from ..base.progress import SILENT, Progress, bars_in_notebooks
from ..data.batch import Batch, sequences_per_pass
from ..data.memory import Memories, Memory, check_fits
from ..shown import ShownTokens
from ..training.loss import log_probabilities
from ..training.margin import margins
from ..unit.lora import Unit, left_bare
from ..unit.stack import Stack
from .readout import readout

VERDICT_DTYPE = torch.float32


@dataclass(frozen=True, repr=False)
class Verdict(ShownTokens):
    """The verdict on one or more memories. The lists have a value for each target token [N]."""

    losses: list[float]  # nats
    margins: list[float]  # logits
    predicted: list[int]  # the argmax given the true prefix
    decoded: list[int]  # what greedy decoding yields there
    targets: list[int]
    lengths: list[int]  # of the memories, in tokens; their sum is N
    probabilities: list[float]
    readout_temperature: float | None = None  # None if every margin is above 0; see readout.py
    calibrated_loss: float | None = None  # nats per token, likewise

    @property
    def loss(self) -> float:
        """L, the mean over the target tokens, nats per token."""
        return sum(self.losses) / len(self.losses)

    @property
    def verbatim(self) -> bool:
        """Every margin is above 0, so that decoding recites it."""
        return not self.wrong

    @property
    def min_margin(self) -> float:
        """The lowest m_t."""
        return min(self.margins)

    @property
    def wrong(self) -> list[int]:
        """Places of the tokens with m_t ≤ 0, the lowest margin first."""
        some = [t for t, m in enumerate(self.margins) if not m > 0]
        return sorted(some, key=self.margins.__getitem__)

    @property
    def argmax_accuracy(self) -> float:
        """Share of the tokens with m_t > 0: those whose argmax is right given the true prefix."""
        return sum(m > 0 for m in self.margins) / len(self.margins)

    @property
    def certified_fraction(self) -> float:
        """Share of the tokens with p_t > ½."""
        return sum(p > 0.5 for p in self.probabilities) / len(self.probabilities)

    @property
    def certified(self) -> bool:
        """Every p_t > ½: the paper's proof of recall."""
        return all(p > 0.5 for p in self.probabilities)

    @property
    def min_probability(self) -> float:
        """The lowest p_t."""
        return min(self.probabilities)

    @property
    def stubborn(self) -> list[int]:
        """Places of the `wrong` tokens, then of those that are the likeliest with p_t ≤ ½."""
        p = self.probabilities
        uncertified = [t for t, m in enumerate(self.margins) if m > 0 and not p[t] > 0.5]
        return self.wrong + sorted(uncertified, key=p.__getitem__)

    @property
    def positions(self) -> list[int]:
        """Position of each token in its own memory [N]."""
        return [t for length in self.lengths for t in range(length)]

    @property
    def first_uncertified(self) -> int | None:
        """Position, in its memory, of the first token with p_t ≤ ½; None without one."""
        return self._first(not p > 0.5 for p in self.probabilities)

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
        starts = np.cumsum([0, *self.lengths[:-1]])
        return float(np.logical_and.reduceat(np.equal(self.decoded, self.targets), starts).mean())

    @property
    def first_error(self) -> int | None:
        """Position, in its memory, of the first token that decoding got wrong; None without one."""
        return self._first(np.not_equal(self.decoded, self.targets))

    def _first(self, marked: Iterable[bool]) -> int | None:
        """Position, in its memory, of the first token that is marked."""
        return next((t for t, yes in zip(self.positions, marked, strict=True) if yes), None)


@bars_in_notebooks
def judge(model: Model, memories: Memories, progress: Progress = SILENT) -> Verdict:
    """Judge the memories on the model as it stands (attach a unit first to judge the unit).

    Raises DataError if a memory is longer than the context, or has ids beyond the vocabulary.
    """
    (verdict,) = judge_groups(model, [check_fits(memories, model.config)], progress)
    return verdict


@torch.no_grad()
@full_precision()
def judge_groups(
    model: Model, groups: Sequence[Sequence[Memory]], progress: Progress
) -> list[Verdict]:
    """A verdict on each group of memories, all from one pass over the memories of all groups."""
    memories = [m for group in groups for m in group]
    batch = Batch(memories, model.config.context, model.device)
    found = teacher_forced(model, batch)
    decoded = [i for ids in decode(model, memories, progress) for i in ids]
    verdicts, stop = [], 0
    for group in groups:
        lengths = [m.length for m in group]
        own = slice(stop, stop := stop + sum(lengths))
        targets = batch.targets[own]
        best: tuple[float | None, float | None] = None, None
        if not (found.margins[own] > 0).all():
            best = readout(found.states[own], model.lm_head.weight, targets)
        verdict = Verdict(
            losses=found.losses[own].tolist(),
            margins=found.margins[own].tolist(),
            predicted=found.predicted[own].tolist(),
            decoded=decoded[own],
            targets=targets.tolist(),
            lengths=lengths,
            probabilities=(-found.losses[own]).exp().tolist(),
            readout_temperature=best[0],
            calibrated_loss=best[1],
        )
        verdicts.append(verdict)
    return verdicts


class Pass(NamedTuple):
    """What one parallel pass finds for each of N target tokens."""

    losses: Tensor  # ℓ_t [N], nats
    margins: Tensor  # m_t [N], logits
    predicted: Tensor  # the argmax, long [N]
    states: Tensor  # x_t [N, d], the normalised last hidden states


@torch.no_grad()
@full_precision()
def teacher_forced(model: Model, batch: Batch) -> Pass:
    """One parallel pass over the true targets, in float32."""
    states, found = [], []
    size = sequences_per_pass(batch.ids.shape[1])
    for indices in np.split(np.arange(len(batch.ids)), range(size, len(batch.ids), size)):
        part = batch.select(indices)
        x = model.norm(model.run(model.embed(part.ids, dtype=VERDICT_DTYPE))[part.rows])
        states.append(x)
        for rows, logp in log_probabilities(x, model.lm_head.weight):
            targets = part.targets[rows]
            losses = -logp.gather(-1, targets[:, None]).squeeze(-1)
            found.append((losses, margins(logp, targets), logp.argmax(-1)))
    losses, margin, predicted = map(torch.cat, zip(*found, strict=True))
    return Pass(losses, margin, predicted, torch.cat(states))


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
        with left_bare(model, [unit]):
            unit.attach(model).train(False)  # no dropout
            verdicts = judge_groups(model, own, progress)
        yield from verdicts
