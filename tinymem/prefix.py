"""What does not change from step to step, computed once.

The base is frozen, so everything below the unit is a constant of the memory, and so is the base's own
output at the unit's layer k. A step then costs the layers above k only:

    site mlp       constants x entering the MLP of layer k and h leaving the block; step: h + x A B
    Linear sites   constant h entering the lowest layer with a LoRA; step: that block and those above
"""

import torch
from torch import Tensor

from .lora import Unit, WithLoRA
from .memory import Batch, together
from .model import Model


class Prefix:
    """The cached activations of a batch, for a model with `unit` attached: each [M, T, d].

    Each memory's are computed once, however many steps see it.
    """

    def __init__(self, model: Model, unit: Unit, batch: Batch):
        self.model, self.batch = model, batch
        self.layer = unit.layers[0]
        mlp = model.layers[self.layer].mlp
        self.lora = mlp.lora if isinstance(mlp, WithLoRA) else None
        self.start = self.layer + (self.lora is not None)
        with torch.no_grad():
            chunks = batch.ids.split(together(batch.ids.shape[1]))
            h, x = zip(*map(self._below, chunks), strict=True)
            self.h = torch.cat(h)
            self.x = torch.cat(x) if self.lora is not None else None
            self.rope = model.rope(self.h)

    def _below(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """h entering the layers that a step computes, and x entering the unit beside an MLP."""
        h = self.model.embed(ids)
        rope = self.model.rope(h)
        h = self.model.run(h, 0, self.layer, rope=rope)
        if self.lora is None:
            return h, None
        block = self.model.layers[self.layer]
        after, x = block.attend(h, rope)
        return after + block.mlp.part(x), x

    def logits(self, part: Batch | None = None) -> Tensor:
        """Logits [N, V] at the N places of `part` (default: the whole batch) that predict a target token."""
        part = self.batch if part is None else part
        time = part.ids.shape[1]
        h = self.h[part.members, :time]
        if self.lora is not None:
            h = h + self.lora(self.x[part.members, :time]).to(h.dtype)
        rope = self.rope and tuple(t[:time] for t in self.rope)
        h = self.model.run(h, self.start, rope=rope)
        return self.model.head(h[part.rows])
