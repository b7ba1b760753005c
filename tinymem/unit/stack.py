"""K units of the same sites as one, so that they train over the frozen layers that they share.

A becomes [K, d_in, R] and B [K, R, d_out], where R is the largest rank. The batch that such a stack
serves holds the sequences of the first unit, then those of the second, and so on. What lies beyond
a unit's own rank is zero and stays zero: column i of A and row i of B get their gradients through
each other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .lora import LoRA, Unit


class StackedLoRA(LoRA):
    """x [K·M, T, d_in] -> [K·M, T, d_out]; each unit computes the M sequences that are its own."""

    def __init__(self, loras: Sequence[LoRA]):
        rank = max(lora.A.shape[1] for lora in loras)
        super().__init__(0, 0, rank, loras[0].dropout)  # A and B are replaced
        A = [pad(lora.A.data, (0, rank - lora.A.shape[1])) for lora in loras]
        B = [pad(lora.B.data, (0, 0, 0, rank - lora.B.shape[0])) for lora in loras]
        self.A, self.B = nn.Parameter(torch.stack(A)), nn.Parameter(torch.stack(B))
        self.generators = [lora.generators[0] for lora in loras]

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(self.A.dtype).reshape(len(self.A), -1, x.shape[-1])  # [K, M·T, d_in]
        return self.drop(wide @ self.A @ self.B).view(*x.shape[:-1], -1)


class Stack(Unit):
    """A unit whose LoRAs are K units' LoRAs side by side."""

    def __init__(self, units: Sequence[Unit]):
        """The values are copied; `write_back` copies them into the units again."""
        paths = units[0].loras
        super().__init__({path: StackedLoRA([u.loras[path] for u in units]) for path in paths})
        self.units = list(units)

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the stack's values into the units that it was made of."""
        for path, stacked in self.loras.items():
            for n, unit in enumerate(self.units):
                lora = unit.loras[path]
                lora.A.copy_(stacked.A[n, :, : lora.A.shape[1]])
                lora.B.copy_(stacked.B[n, : lora.B.shape[0]])

    def select(self, indices: Sequence[int]) -> None:
        """Continue with these units only; the others keep the values they have reached."""
        self.write_back()
        self.units = [self.units[n] for n in indices]
        for stacked in self.loras.values():
            for p in (stacked.A, stacked.B):
                gradient, p.grad = p.grad, None
                p.data = p.data[list(indices)]
                p.grad = None if gradient is None else gradient[list(indices)]
            stacked.generators = [stacked.generators[n] for n in indices]
