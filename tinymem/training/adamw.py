"""AdamW without weight decay (Loshchilov and Hutter 2019) for K runs at once.

    m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
    p ← p − η · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)

Parameters are stacks [K, …] (unit/stack.py); each run has its own learning rate η and its own
gradient norm. Everything is done in place and on the device, so that a GPU can record a step and
replay it.
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
        # Steps done. In float32, 1 − 0.999ᵗ would have only four digits at first.
        self.t = torch.zeros((), device=self.parameters[0].device, dtype=torch.float64)

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """One update from the gradients of the parameters; rate [K]."""
        self.t += 1
        first, second = ((1 - beta**self.t).float() for beta in BETAS)
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            assert p.grad is not None
            m.lerp_(p.grad, 1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
            p.sub_(rate[:, None, None] * (m / first) / ((v / second).sqrt() + EPSILON))

    def select(self, indices: Sequence[int]) -> None:
        """Continue with these runs only."""
        self.m, self.v = ([one[list(indices)] for one in moment] for moment in (self.m, self.v))


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], limit: Tensor) -> None:
    """Scale each run's gradients, over all parameters [K, …], to a norm of at most `limit` [K]."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.square().sum((1, 2)) for g in gradients]).sum(0).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g *= scale[:, None, None]
