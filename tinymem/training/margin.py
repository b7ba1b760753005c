"""The margin objective: cross-entropy on sharpened logits. It is tinymem's own, not the paper's.

Greedy decoding does not need p > ½. It needs the target's logit above every other one, that is, a
positive margin. The objective asks for that, and for no more:

    L = mean_t T · CE(z_t / T, y_t),    T falls from 1 to END over the run, geometrically

With T = 1 it is plain cross-entropy. For T → 0 it becomes max_j z_j − z_y, the perceptron loss for
several classes (Crammer and Singer 2001): it is 0 where the margin is not negative, and its
gradient knows only the target and the strongest rival. How the temperature of a softmax changes
training is the subject of Agarwala et al. 2020 (arXiv 2010.07344).

Glossary
    z_t     [V]  logits at the position that predicts target token t; y_t is that token
    m_t          margin, z_y − max_{j≠y} z_j, in logits
    T            temperature of the objective; the readout always has T = 1
"""

import torch
from torch import Tensor

# The last temperature, found on `tiny` (1,000 steps, five seeds; share of the argmaxes that are
# right at the end). 160 random tokens, rank 3: END 1: 37 %, 0.3: 82 %, 0.1: 97 %, 0.03: 100 %,
# 0.01: 100 %. 120 tokens, rank 2: 0.1: 48 %, 0.03: 58 %, 0.01: 62 %, 0.003: 62 %; held at 0.03 all
# the time 26 %, from 0.1 to 0.01 34 %, so T has to begin at 1. 90 tokens, rank 2, END 0.01: falling
# geometrically 88 %, later 79 and 86 %, earlier 73 %, with the weights of memft-ot 88 %.
END = 0.01
# Below these margins, in logits, rounding can change which token is the likeliest. Measured on
# `tiny` and SmolLM2-135M, 860 tokens of ten units (ranks 1 to 16; sft, memft-ot, margin), against
# one parallel pass in float32. In float32 another batch shape, and decoding with a KV cache, moved
# margins by at most 1.1e-5 and 9.3e-5. In bfloat16 it was 0.02 to 0.1 in the median and 0.54 at
# most, or 3 % of the largest logit; the largest margin that changed its sign was 0.15.
THIN, THIN_IN_BFLOAT16 = 1e-3, 1.0


def thin_for(dtype: torch.dtype) -> float:
    """The margin, in logits, up to which arithmetic in this dtype can change its sign."""
    return THIN if dtype == torch.float32 else THIN_IN_BFLOAT16


def temperature(done: float, end: Tensor) -> Tensor:
    """T after this share of the run, 0 to 1; end: the last temperature of each run (1: no fall)."""
    return end**done


def sharpen(logp: Tensor, temperatures: Tensor) -> Tensor:
    """ln softmax(z / T) [n, V] from ln softmax(z), which is overwritten; temperatures [n].

    ln softmax(z) is z less a number that is the same for all V, and softmax ignores such a number.
    """
    return torch.log_softmax(logp.div_(temperatures[:, None]), -1, out=logp)


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    """m_t [n] from z [n, V], or from ln softmax(z), and targets, long [n].

    By hand: logits 2, 5, 4 with target 1 -> 1; with target 2 -> −1.
    """
    own = logits.gather(-1, targets[:, None])
    logits.scatter_(-1, targets[:, None], -torch.inf)  # and back: a copy would cost memory
    others = logits.amax(-1)
    logits.scatter_(-1, targets[:, None], own)
    return own.squeeze(-1) - others
