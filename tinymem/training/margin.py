"""The margin objective: cross-entropy on sharpened logits. It is tinymem's own, not the paper's.

Greedy decoding does not need p > ½. It needs the target's logit above every other one, that is, a
positive margin. The objective asks for that, and for no more:

    L = mean_t T · CE(z_t / T, y_t),    T = END^(done²), done: share of the run, from 0 to 1

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

# The last temperature. Both were found with five seeds of random tokens on `tiny` (1,000 steps) and
# on SmolLM2-135M (rank 1, 64 tokens, 300 steps, four seeds); shares of the argmaxes that are right:
#     geometric, T = END^done   END 1     0.3     0.1    0.03    0.01   0.003
#     tiny, rank 3, 160 tokens   37 %    82 %    97 %   100 %   100 %
#     tiny, rank 2, 120 tokens                   48 %    58 %    62 %    62 %
#     SmolLM2                                    99.7 %  96.9 %  90.6 %
# With T = 0.01^(done²) SmolLM2 reaches 100 %, and tiny with rank 2 and 90 tokens 86 %; there the
# geometric fall reaches 88 %, a later one (T = 1 until half of the run) 79 %, an earlier one
# (√done) 73 %. T held at 0.03 from the beginning is far worse (26 % at 120 tokens, rank 2), and the
# weights of memft-ot change nothing (88 %).
END = 0.01
# Rounding can change the sign of margins up to these, in logits. Measured on `tiny` and on
# SmolLM2-135M (20 units of ranks 1 to 16 by sft, memft-ot and margin, 1,720 tokens) against one
# parallel pass in float32. In float32, other batch shapes moved a margin by at most 1.7e-5, and
# decoding with a KV cache by 9.3e-5. In bfloat16 both moved it by 0.02 (`tiny`) and 0.07 (SmolLM2)
# in the median, by 0.56 at most, and by 0.28 at most where it was below 1; the largest that
# changed its sign was 0.15.
THIN, THIN_IN_BFLOAT16 = 1e-3, 0.5


def thin_for(dtype: torch.dtype) -> float:
    """The margin, in logits, up to which arithmetic in this dtype can change its sign."""
    return THIN if dtype == torch.float32 else THIN_IN_BFLOAT16


def temperature(done: float, end: Tensor) -> Tensor:
    """T after this share of the run, 0 to 1; end: the last temperature of each run (1: no fall).

    By hand, for END = 0.01: 1 at the beginning, 0.32 half way, 0.01 at the end.
    """
    return end ** (done * done)


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
