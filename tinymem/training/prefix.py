"""What does not change from step to step, computed once.

The base is frozen, so everything below the unit is a constant of the memory, and so is the base's own
output at the unit's layer k. A step then costs the layers above k only:

    site mlp       constants x entering the MLP of layer k and h leaving the block; step: h + x A B
    Linear sites   constant h entering the lowest layer with a LoRA; step: that block and those above
"""

import numpy as np
import torch
from torch import Tensor

from ..base.model import Model
from ..data.batch import Batch, together
from ..unit.lora import Unit, WithLoRA

ROOM = {"cpu": 2**29, "cuda": 2**32}  # bytes of activations that a step may keep


def activations(model: Model, start: int, positions: int) -> int:
    """Bytes, about, that a step keeps of layers `start` … for its way back."""
    c = model.config
    inner = (3 if c.gated_mlp else 2) * c.intermediate_size
    each = inner + 4 * c.num_heads * c.head_dim + 3 * c.hidden_size
    return (c.num_layers - start) * each * positions * model.dtype.itemsize


def room(device: torch.device) -> int:
    """Bytes that activations may take on this device; on a GPU no more than half of what is free."""
    most = ROOM[device.type]
    return min(most, torch.cuda.mem_get_info(device)[0] // 2) if device.type == "cuda" else most


class Prefix:
    """The cached activations of a batch, for a model with `unit` attached: each [M, T, d].

    Each sequence's are computed once, however many steps see it and however many units remember it.
    """

    def __init__(self, model: Model, unit: Unit, batch: Batch):
        self.model, self.batch = model, batch
        self.layer = unit.layers[0]
        mlp = model.layers[self.layer].mlp
        self.lora = mlp.lora if isinstance(mlp, WithLoRA) else None
        self.start = self.layer + (self.lora is not None)
        # What a step cannot keep is computed a second time, layer by layer, on the way back; not with
        # dropout inside the layers, which would fall differently then.
        steady = self.lora is not None or not any(lora.dropout for lora in unit.loras.values())
        self.recompute = steady and activations(model, self.start, batch.ids.numel()) > room(
            model.device
        )
        with torch.no_grad():
            distinct, which = batch.ids.unique(dim=0, return_inverse=True)
            chunks = distinct.split(together(distinct.shape[1]))
            h, x = zip(*map(self._below, chunks), strict=True)
            self.h = torch.cat(h)[which]
            self.x = torch.cat(x)[which] if self.lora is not None else None
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
        return after + block.mlp.part(x), x.float()

    def states(self, part: Batch | None = None) -> Tensor:
        """The last hidden states [N, d], normalised, at the N places of `part` (default: the whole batch)
        that predict a target token."""
        part = self.batch if part is None else part
        time = part.ids.shape[1]
        h = self.h[part.members, :time]
        if self.lora is not None:
            h = h + self.lora(self.x[part.members, :time]).to(h.dtype)
        rope = self.rope and tuple(t[:time] for t in self.rope)
        h = self.model.run(h, self.start, rope=rope, recompute=self.recompute)
        return self.model.norm(h[part.rows])

    def keep(self, which: np.ndarray) -> None:
        """Go on with the sequences `which` alone."""
        self.batch = self.batch.keep(which)
        index = torch.from_numpy(which).to(self.h.device)
        self.h, self.x = self.h[index], None if self.x is None else self.x[index]
