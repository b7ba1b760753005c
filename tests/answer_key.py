"""Answers to tutorials/exercises.py, taken from the library where it has one.

`pytest tutorials --answers=tests/answer_key.py` gives all points. The answer to exercise 4 is
written out, because the library calls log_softmax, which that exercise forbids. The counter-example
of exercise 5 and the answers to exercises 7 and 11 exist only here.
"""

import itertools
import math

import torch

import tinymem as tm
from tinymem.base.rope import rotate as half_split
from tinymem.data.batch import Batch
from tinymem.law import power as law
from tinymem.training.memft import memft_ot_weights, weighted_mean  # noqa: F401
from tinymem.unit.lora import LoRA

LN2 = math.log(2)


def inputs_and_targets(prompt_ids, target_ids):
    batch = Batch([tm.Memory(prompt_ids, target_ids)], context=10_000, device=torch.device("cpu"))
    return batch.ids[0].tolist(), batch.rows[1].tolist(), batch.targets.tolist()


def rotate(x, positions, theta=10_000.0):
    frequencies = theta ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    angles = torch.outer(positions.float(), frequencies).repeat(1, 2)
    return half_split(x, angles.cos(), angles.sin())


def new_unit(d_in, d_out, rank, generator):
    lora = LoRA(d_in, d_out, rank)
    lora.reset(generator)
    return lora.A, lora.B


def unit_output(x, A, B):
    return x @ A @ B


def token_losses(logits, targets):
    shifted = logits - logits.max(-1, keepdim=True).values
    return shifted.exp().sum(-1).log() - shifted[torch.arange(len(targets)), targets]


def certified(logits, targets):
    return bool((token_losses(logits, targets) < LN2).all())


def verbatim(logits, targets):
    return torch.equal(logits.argmax(-1), targets)


def recalled_below_one_half(tokenizer):
    """Training stops early: the lowest p is 0.42, and p exceeds the next best by at least 0.2."""
    return tm.random_memory(tokenizer, 16, seed=3), dict(rank=2, steps=150)


def check_sweep(sweep, folder):
    def sweep_of(name, *grid):
        rows = sweep(folder / name, *grid)
        found = sorted((row["rank"], row["length"], row["seed"]) for row in rows)
        assert found == sorted(itertools.product(*grid)), f"{grid} gave the cells {found}"
        return {(row["rank"], row["length"], row["seed"]): row for row in rows}

    kept = ("base_loss", "final_loss", "wall_seconds")
    first = sweep_of("grid", [1, 2], [4, 6], [0])
    more = sweep_of("grid", [1, 2], [4, 6], [0, 1])
    for cell, row in first.items():
        assert all(more[cell][name] == row[name] for name in kept), f"{cell} was trained again"
    for rank, length, _ in first:
        two = [more[rank, length, seed]["base_loss"] for seed in (0, 1)]
        assert two[0] != two[1], "two seeds have the same memory"
    for cell, row in sweep_of("part", [2], [6], [1]).items():
        apart = abs(row["final_loss"] - more[cell]["final_loss"])
        assert apart < 1e-3, f"{cell} depends on the other cells"


def fit_plane(ranks, lengths, delta_losses):
    fit = law.fit_law(ranks, lengths, delta_losses, offset=False, draws=2)
    return fit.C, fit.alpha, fit.beta


def rank_for(C, alpha, beta, length, delta_loss):
    return law.PowerLaw(C, alpha, beta, 0.0).rank_for(length, delta_loss)


def stored_bits(base_loss, loss, length):
    return (base_loss - loss) * length / LN2


def memorized_bits(entropy, loss, length):
    return max(0.0, entropy - loss) * length / LN2


def logits_from_cache(model, layer, h, x, A, B):
    return model.head(model.run(h + x @ A @ B, layer + 1))


MY_TEXT = (
    "In 1969 a computer at UCLA sent the letters L and O to Stanford; then the network crashed. "
    "Packet switching, TCP/IP and Ethernet followed."
)  # 60 tokens
MY_RANK = 5
