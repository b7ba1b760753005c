"""The memory unit: a LoRA of rank r beside a part of the frozen base model (arXiv 2605.30260).

    out = part(x) + dropout(x A B)

Glossary
    x, d       what goes into the part, [..., d_in]; d is the model's width
    A, B       A [d_in, r], Kaiming-uniform with bound 1/√r; B [r, d_out], zero: a fresh unit changes nothing
    r          the rank; there is no factor α/r (alpha = rank)
    site       which part: `mlp`, the whole MLP of one layer (the paper's, 2·d·r parameters), or any
               Linear by its name (`q_proj`, `c_attn`, …), in one layer or several: ordinary LoRA

The paper trains its unit in bfloat16; here A and B are float32 whatever the base is. The dense product
A B is never made while training: x A B costs 2·d·r a token, A B costs d².

Units of the same sites can be stacked, A [K, d_in, R] and B [K, R, d_out], and then serve a batch that holds
the sequences of one after those of the other; so K of them train over the frozen layers they share.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..base.model import Linear, Model
from ..errors import AdapterError
from .sites import layer_of, plan_unit


class LoRA(nn.Module):
    """x [..., d_in] -> dropout(x A B) [..., d_out], in float32."""

    def __init__(self, d_in: int, d_out: int, rank: int, dropout: float = 0.0):
        super().__init__()
        self.A = nn.Parameter(torch.empty(d_in, rank))
        self.B = nn.Parameter(torch.zeros(rank, d_out))
        self.dropout = dropout
        self.noises = [torch.Generator()]  # of dropout, one for each unit, seeded in `reset`

    def reset(self, generator: torch.Generator) -> None:
        """A ~ U(−1/√r, 1/√r), drawn on the CPU so that every device starts alike; B = 0."""
        bound = 1 / math.sqrt(self.A.shape[1])
        with torch.no_grad():
            self.A.copy_(torch.empty(self.A.shape).uniform_(-bound, bound, generator=generator))
            self.B.zero_()
        self.noises = [torch.Generator(self.A.device).manual_seed(generator.initial_seed())]

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(self.A.dtype)
        if self.A.ndim == 3:  # [K·M, T, d_in] -> [K, M·T, d_in]
            wide = wide.reshape(len(self.A), -1, x.shape[-1])
        out = wide @ self.A @ self.B
        if self.dropout and self.training:
            keep = torch.empty_like(out)
            for part, noise in zip(keep.chunk(len(self.noises)), self.noises, strict=True):
                part.bernoulli_(1 - self.dropout, generator=noise)
            out = out * keep / (1 - self.dropout)
        return out.view(*x.shape[:-1], -1)


class WithLoRA(nn.Module):
    """A part of the model with a LoRA beside it."""

    def __init__(self, part: nn.Module, lora: LoRA):
        super().__init__()
        self.part, self.lora = part, lora

    def forward(self, x: Tensor) -> Tensor:
        out = self.part(x)
        return out + self.lora(x).to(out.dtype)


class Unit:
    """The LoRAs of one memory unit, by the path of the module they sit beside.

    Nothing happens behind your back: `attach` puts the unit into a model and freezes the base,
    `detach` takes it out again, `merge` adds it into the weights for good (Linear sites only).
    adapter.py saves and loads units.
    """

    def __init__(self, loras: dict[str, LoRA]):
        self.loras, self.model = loras, None

    @classmethod
    def create(
        cls,
        model: Model,
        rank: int,
        *,
        sites: Sequence[str] = ("mlp",),
        layers: Sequence[int] | None = None,
        seed: int = 0,
        dropout: float = 0.0,
    ) -> "Unit":
        """A fresh unit for `model`, on its device, not yet attached.

        Raises RecipeError for a site, layer or rank that the model does not have room for.
        """
        loras, generator = {}, torch.Generator().manual_seed(seed)
        for path, (d_in, d_out) in plan_unit(model, rank, sites, layers).items():
            loras[path] = LoRA(d_in, d_out, rank, dropout).to(model.device)
            loras[path].reset(generator)
        return cls(loras)

    @classmethod
    def stack(cls, units: Sequence["Unit"]) -> "Unit":
        """K units of the same sites as one, R being the largest rank.

        What is beyond a unit's own rank is zero and stays zero: column i of A and row i of B get their
        gradients through each other. `unstack` brings back what was trained.
        """
        stacked = {}
        for path, first in units[0].loras.items():
            loras = [unit.loras[path] for unit in units]
            (d_in, _), d_out = first.A.shape, first.B.shape[1]
            rank = max(lora.A.shape[1] for lora in loras)
            both = LoRA(d_in, d_out, rank, first.dropout).to(first.A.device)
            both.A.data, both.B.data = (
                p.data.repeat(len(units), 1, 1).zero_() for p in (both.A, both.B)
            )
            for n, lora in enumerate(loras):
                both.A.data[n, :, : lora.A.shape[1]] = lora.A.data
                both.B.data[n, : lora.B.shape[0]] = lora.B.data
            both.noises = [lora.noises[0] for lora in loras]
            stacked[path] = both
        return cls(stacked)

    @torch.no_grad()
    def unstack(self, units: Sequence["Unit"]) -> None:
        """Copy a stack's values back into the units that it was made of."""
        for path, both in self.loras.items():
            for n, unit in enumerate(units):
                lora = unit.loras[path]
                lora.A.copy_(both.A[n, :, : lora.A.shape[1]])
                lora.B.copy_(both.B[n, : lora.B.shape[0]])

    def keep(self, which: Tensor) -> None:
        """Of a stack, keep the units `which` (long [n]) alone."""
        for both in self.loras.values():
            for p in (both.A, both.B):
                gradient, p.grad = p.grad, None
                p.data = p.data[which]
                p.grad = None if gradient is None else gradient[which]
            both.noises = [both.noises[n] for n in which.tolist()]

    @property
    def rank(self) -> int:
        """r; of a stack, the largest."""
        return max(lora.A.shape[-1] for lora in self.loras.values())

    @property
    def layers(self) -> list[int]:
        return sorted({layer_of(path) for path in self.loras})

    def parameters(self) -> list[nn.Parameter]:
        """A and B of each LoRA in turn."""
        return [p for lora in self.loras.values() for p in (lora.A, lora.B)]

    def trainable_parameters(self) -> int:
        """How many numbers; 2·d·r at the site `mlp`."""
        return sum(p.numel() for p in self.parameters())

    def train(self, on: bool = True) -> None:
        """Dropout on or off; touches no weights."""
        for lora in self.loras.values():
            lora.train(on)

    def attach(self, model: Model) -> "Unit":
        """Put the unit into `model`. What is trainable afterwards is exactly the unit's A and B."""
        if self.model is not None:
            raise AdapterError("this unit is attached already; detach it first")
        if any(isinstance(module, WithLoRA) for module in model.modules()):
            raise AdapterError("the model has a unit attached already; detach that first")
        model.requires_grad_(False)
        for path, lora in self.loras.items():
            replace(model, path, WithLoRA(model.get_submodule(path), lora))
        self.model = model
        return self

    def detach(self) -> "Unit":
        """Take the unit out; the base is again what it was."""
        for path in self._attached().loras:
            replace(self.model, path, self.model.get_submodule(path).part)
        self.model = None
        return self

    @torch.no_grad()
    def merge(self) -> Model:
        """W += (A B)ᵀ in float32, then detach: the model remembers without a unit. There is no undo.

        Raises AdapterError at the site `mlp`: an MLP is not a matrix that A B could be added to.
        """
        model = self._attached().model
        for path in self.loras:
            if not isinstance(model.get_submodule(path).part, Linear):
                raise AdapterError(f"the unit at {path} cannot be merged: only Linear sites can")
        loras = self.detach().loras
        for path, lora in loras.items():
            weight = model.get_submodule(path).weight
            weight.copy_(weight.float() + (lora.A @ lora.B).t())
        model.weight_hash = None  # these are other weights now
        return model

    def _attached(self) -> "Unit":
        if self.model is None:
            raise AdapterError("this unit is not attached to a model")
        return self


def replace(model: Model, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
