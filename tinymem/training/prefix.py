"""What does not change from step to step, computed once.

The base is frozen. Everything below the unit is therefore a constant of the memory, and so is the
base's own output at the layer k of the unit. A step computes only the layers above k:

    site mlp       constants: x entering the MLP of layer k, and h leaving the block;
                   each step: h + x A B, then the layers above k
    Linear sites   constant: h entering the lowest layer that has a LoRA;
                   each step: that layer and those above it
"""

import numpy as np
import torch
from torch import Tensor

from ..base.model import Block, Model
from ..data.batch import Batch, sequences_per_pass
from ..unit.beside import WithLoRA
from ..unit.lora import Unit

ACTIVATION_BUDGET = {"cpu": 2**29, "cuda": 2**32}  # bytes kept for the backward pass of a step


def activation_bytes(model: Model, start: int, positions: int) -> int:
    """Approximate bytes of activations that layers `start` … keep for the backward pass."""
    c = model.config
    inner = (3 if c.gated_mlp else 2) * c.intermediate_size
    each = inner + 4 * c.num_heads * c.head_dim + 3 * c.hidden_size
    return (c.num_layers - start) * each * positions * model.dtype.itemsize


def activation_budget(device: torch.device) -> int:
    """Bytes of activations that fit; on a GPU at most half of the memory that is free."""
    most = ACTIVATION_BUDGET[device.type]
    return min(most, torch.cuda.mem_get_info(device)[0] // 2) if device.type == "cuda" else most


class Prefix:
    """The cached activations of a batch, for a model with `unit` attached: each [M, T, d].

    Equal sequences are computed once, however many units remember them.
    """

    def __init__(self, model: Model, unit: Unit, batch: Batch):
        self.model, self.batch = model, batch
        self.layer = unit.layers[0]
        mlp = model.layers[self.layer].mlp
        self.lora = mlp.lora if isinstance(mlp, WithLoRA) else None
        self.start = self.layer + (self.lora is not None)  # the first layer that a step computes
        # If activations do not fit, recompute them layer by layer in the backward pass; not with
        # dropout inside the layers, whose mask would differ.
        repeatable = self.lora is not None or not any(lora.dropout for lora in unit.loras.values())
        needed = activation_bytes(model, self.start, batch.ids.numel())
        self.recompute = repeatable and needed > activation_budget(model.device)
        with torch.no_grad():
            distinct, places = batch.ids.unique(dim=0, return_inverse=True)
            chunks = distinct.split(sequences_per_pass(distinct.shape[1]))
            h, x = zip(*map(self._below, chunks), strict=True)
            self.h = torch.cat(h)[places]
            self.x = torch.cat(x)[places] if self.lora is not None else None
            self.rope = model.rope(self.h)

    def _below(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """h entering the layers that a step computes, and x entering the MLP beside the unit."""
        h = self.model.embed(ids)
        rope = self.model.rope(h)
        h = self.model.run(h, 0, self.layer, rope=rope)
        if self.lora is None:
            return h, None
        block = self.model.layers[self.layer]
        assert isinstance(block, Block) and isinstance(block.mlp, WithLoRA)
        after, x = block.attend(h, rope)
        return after + block.mlp.part(x), x.float()

    def states(self, part: Batch) -> Tensor:
        """The last hidden states [N, d], normalised, that predict the target tokens of `part`."""
        time = part.ids.shape[1]
        h = self.h[part.members, :time]
        if self.lora is not None and self.x is not None:
            h = h + self.lora(self.x[part.members, :time]).to(h.dtype)
        rope = self.rope and (self.rope[0][:time], self.rope[1][:time])
        h = self.model.run(h, self.start, rope=rope, recompute=self.recompute)
        return self.model.norm(h[part.rows])

    def select(self, indices: np.ndarray) -> None:
        """Continue with these sequences only."""
        self.batch = self.batch.subset(indices)
        places = torch.from_numpy(indices).to(self.h.device)
        self.h, self.x = self.h[places], None if self.x is None else self.x[places]
