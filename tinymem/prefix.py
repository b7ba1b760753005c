"""What does not change from step to step, computed once.

The base is frozen, so everything below the unit is a constant of the memory, and so is the base's own
output at the unit's layer k. A step then costs the layers above k only:

    site mlp       constants x entering the MLP of layer k and h leaving the block; step: h + x A B
    Linear sites   constant h entering the lowest layer with a LoRA; step: that block and those above
"""

import torch
from torch import Tensor

from .lora import Unit, WithLoRA
from .memory import Batch
from .model import Model


class Prefix:
    """The cached activations of a batch, for a model with `unit` attached: each [M, T, d]."""

    def __init__(self, model: Model, unit: Unit, batch: Batch):
        self.model, self.batch = model, batch
        lowest = unit.layers[0]
        block = model.layers[lowest]
        with torch.no_grad():
            h = model.embed(batch.ids)
            self.rope = model.rope(h)
            h = model.run(h, 0, lowest, rope=self.rope)
            self.lora = None
            if isinstance(block.mlp, WithLoRA):
                after, self.x = block.attend(h, self.rope)
                h = after + block.mlp.part(self.x)
                self.lora = block.mlp.lora
        self.h, self.start = h, lowest + (self.lora is not None)

    def logits(self) -> Tensor:
        """Logits [N, V] at the N places that predict a target token, and nowhere else."""
        h = self.h
        if self.lora is not None:
            h = h + self.lora(self.x).to(h.dtype)
        h = self.model.run(h, self.start, rope=self.rope)
        return self.model.head(h[self.batch.rows])
