"""The readout temperature: how sharply to read the logits of a memory that is not recited.

A unit may know more of a target than its loss at T = 1 says: if its logits are too flat or too
peaked, the loss is lower at another temperature. The readout temperature is the one number T > 0
that makes the mean over the target tokens of −ln softmax(z_t / T)[y_t] smallest; the calibrated
loss is the mean there (temperature scaling, Guo et al. 2017, arXiv 1706.04599). Where every margin
is above 0 the loss goes to 0 with T, so neither is defined: the memory is there whole.

Glossary
    z_t, y_t   logits [V] at the position that predicts target token t; y_t is that token
    s          1 / T. The mean loss f(s) = mean_t (ln Σ_j e^(s·z_tj) − s·z_ty) is convex in s
    f′(s)      mean_t (E[z_t] − z_ty), with the expectation under softmax(s·z_t)
    f″(s)      mean_t Var[z_t], under the same distribution
"""

import math

import torch
from torch import Tensor

from ..training.loss import Buffers, log_probabilities

MIN_T, MAX_T = 1e-3, 1e3
PRECISION = 1e-4  # of T, relative: the loss is flat there, so its error is far smaller still
PASSES = 50  # at most; Newton's method needs about 6, bisection to one of the bounds about 20


def readout(x: Tensor, head: Tensor, targets: Tensor) -> tuple[float, float]:
    """(readout temperature, calibrated loss in nats per token) of states x [N, d].

    head: W [V, d]. targets: long [N]. T lies between MIN_T and MAX_T. NaN if a state is not finite.

    Newton's method for f′(s) = 0. f′ rises, so each s closes the interval from one side; a step
    that leaves the interval is replaced by its geometric mean.
    """
    low, high, s = 1 / MAX_T, 1 / MIN_T, 1.0
    buffers: Buffers = {}
    for _ in range(PASSES):
        loss, slope, curvature = mean_loss(x, head, targets, s, buffers)
        low, high = (s, high) if slope < 0 else (low, s)
        step = s - slope / max(curvature, 1e-30)
        new = step if low < step < high else math.sqrt(low * high)
        if not abs(new - s) > PRECISION * s:  # or it is NaN
            break
        s = new
    return 1 / s, loss


def mean_loss(
    x: Tensor, head: Tensor, targets: Tensor, s: float, buffers: Buffers
) -> tuple[float, float, float]:
    """f(s), f′(s) and f″(s); the [N, V] logits are never stored at once."""
    sums = torch.zeros(3, dtype=torch.float64, device=x.device)
    for rows, z in log_probabilities(x, head, buffers):  # less ln Σ e^z, which softmax ignores
        own = z.gather(-1, targets[rows, None])
        q = z * s
        torch.log_softmax(q, -1, out=q)
        losses = -q.gather(-1, targets[rows, None])
        q.exp_()
        mean = torch.einsum("nv,nv->n", q, z)[:, None]
        variance = torch.einsum("nv,nv->n", q, z.sub_(mean).square_())
        parts = losses.squeeze(-1), (mean - own).squeeze(-1), variance
        sums += torch.stack(parts).double().sum(-1)
    loss, slope, curvature = (sums / len(x)).tolist()
    return loss, slope, curvature
