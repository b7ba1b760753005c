"""AdamW without weight decay (Loshchilov and Hutter 2019) for K runs at once.

    m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
    p ← p − η · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)

Parameters are stacks [K, …] (lora.py), and each run has its own rate η and its own gradient norm. All is
done in place and on the device: a step can be recorded once and replayed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


class AdamW:
    """The moments m and v of K runs' parameters, each [K, …]."""

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters = list(parameters)
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        # Steps done. float32 would give 1 − 0.999ᵗ only four digits at first.
        self.t = torch.zeros((), device=self.parameters[0].device, dtype=torch.float64)

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """One update from the parameters' gradients; rate [K]."""
        self.t += 1
        first, second = ((1 - beta**self.t).float() for beta in BETAS)
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            m.lerp_(p.grad, 1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
            p.sub_(rate[:, None, None] * (m / first) / ((v / second).sqrt() + EPSILON))

    def keep(self, which: Tensor) -> None:
        """Go on with the runs `which` (long [n]) alone."""
        self.m, self.v = ([moment[which] for moment in moments] for moments in (self.m, self.v))


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], most: Tensor) -> None:
    """Scale each run's gradients, over all parameters [K, …], to a norm of at most `most` [K]."""
    norm = sum(p.grad.square().sum((1, 2)) for p in parameters).sqrt()
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for p in parameters:
        p.grad *= scale[:, None, None]
