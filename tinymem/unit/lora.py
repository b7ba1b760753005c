"""The memory unit: a LoRA of rank r beside a part of the frozen base model (arXiv 2605.30260).

    out = part(x) + dropout(x A B)

Glossary
    x, d       input of the part, [..., d_in]; d is the width of the model
    A          [d_in, r], Kaiming-uniform with bound 1/√r
    B          [r, d_out], zero, so that a fresh unit changes nothing
    r          the rank; there is no factor α/r (alpha = rank)
    site       the part: `mlp` is the whole MLP of one layer (the paper's site, 2·d·r parameters);
               any Linear by its name (`q_proj`, `c_attn`, …), in one layer or several, is
               ordinary LoRA

The paper trains its unit in bfloat16; here A and B are float32 whatever the base is. Training never
computes the dense product A B: x A B costs 2·d·r multiplications a token, A B costs d².
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..base.model import Linear, Model
from ..errors import AdapterError
from ..shown import Shown
from .beside import WithLoRA, put_in, take_out, trainable
from .sites import layer_of, unit_shapes


class LoRA(nn.Module):
    """x [..., d_in] -> dropout(x A B) [..., d_out], in float32."""

    def __init__(self, d_in: int, d_out: int, rank: int, dropout: float = 0.0):
        super().__init__()
        self.A = nn.Parameter(torch.empty(d_in, rank))
        self.B = nn.Parameter(torch.zeros(rank, d_out))
        self.dropout = dropout
        self.generators = [torch.Generator()]  # of the dropout masks, one a unit

    def reset(self, generator: torch.Generator) -> None:
        """A ~ U(−1/√r, 1/√r), drawn on the CPU so that every device starts alike; B = 0."""
        bound = 1 / math.sqrt(self.A.shape[1])
        with torch.no_grad():
            self.A.copy_(torch.empty(self.A.shape).uniform_(-bound, bound, generator=generator))
            self.B.zero_()
        self.generators = [torch.Generator(self.A.device).manual_seed(generator.initial_seed())]

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x.to(self.A.dtype) @ self.A @ self.B)

    def drop(self, out: Tensor) -> Tensor:
        """Dropout in training; each unit's share of `out` gets the mask of its own generator."""
        if not (self.dropout and self.training):
            return out
        mask = torch.empty_like(out)
        for part, generator in zip(mask.chunk(len(self.generators)), self.generators, strict=True):
            part.bernoulli_(1 - self.dropout, generator=generator)
        return out * mask / (1 - self.dropout)


class Unit(Shown):
    """The LoRAs of one memory unit, by the path of the module that each sits beside.

    The model changes only here: `attach` puts the unit into a model and freezes the base, `detach`
    takes it out again, `merge` adds it to the weights for good.
    """

    def __init__(self, loras: Mapping[str, LoRA]):
        self.loras: dict[str, LoRA] = dict(loras)
        self.places = {path: WithLoRA(lora) for path, lora in self.loras.items()}
        self.model: Model | None = None  # the model it is attached to
        self.merged: Model | None = None  # the model it was merged into

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

        layers: numbered from 0; None is the layer at two thirds of the depth.
        Raises RecipeError for a site, a layer or a rank that the model does not have room for.
        """
        loras, generator = {}, torch.Generator().manual_seed(seed)
        for path, (d_in, d_out) in unit_shapes(model, rank, sites, layers).items():
            loras[path] = LoRA(d_in, d_out, rank, dropout).to(model.device)
            loras[path].reset(generator)
        return Unit(loras)

    @property
    def rank(self) -> int:
        """r, the largest one of its LoRAs."""
        return max(lora.A.shape[-1] for lora in self.loras.values())

    @property
    def layers(self) -> list[int]:
        return sorted({layer_of(path) for path in self.loras})

    def parameters(self) -> list[nn.Parameter]:
        """A and B of each LoRA in turn."""
        return [p for lora in self.loras.values() for p in (lora.A, lora.B)]

    def trainable_parameters(self) -> int:
        """The number of trained values; 2·d·r at the site `mlp`."""
        return sum(p.numel() for p in self.parameters())

    def train(self, on: bool = True) -> None:
        """Switches dropout on or off; changes no weights."""
        for lora in self.loras.values():
            lora.train(on)

    def attach(self, model: Model) -> "Unit":
        """Put the unit into `model`. Afterwards exactly the unit's A and B are trainable."""
        if self.model is not None or self.merged is model:
            how = "attached already; detach it first" if self.model else "merged into this model"
            raise AdapterError(f"this unit is {how}")
        put_in(model, self.places)
        self.model = model
        return self

    def detach(self) -> "Unit":
        """Take the unit out; the base is again what it was, and frozen."""
        take_out(self._attached())
        self.model = None
        return self

    @contextmanager
    def attached(self, model: Model) -> Iterator["Unit"]:
        """`with unit.attached(model):`. The model is left as it was, also after an error."""
        with left_bare(model, [self]):
            yield self.attach(model)

    @torch.no_grad()
    def merge(self) -> Model:
        """W += (A B)ᵀ in float32, then detach: the model remembers without a unit. No undo.

        Raises AdapterError at the site `mlp`: an MLP is not a matrix that A B could be added to.
        """
        model = self._attached()
        for path in self.loras:
            if not isinstance(model.get_submodule(f"{path}.part"), Linear):
                raise AdapterError(f"the unit at {path} cannot be merged: only Linear sites can")
        for path, lora in self.detach().loras.items():
            weight = model.get_parameter(f"{path}.weight")
            weight.copy_(weight.float() + (lora.A @ lora.B).t())
        self.merged, model.weight_hash, model.value_hash = model, None, None  # other weights now
        return model

    def _attached(self) -> Model:
        if self.model is None:
            raise AdapterError("this unit is not attached to a model")
        return self.model


@contextmanager
def left_bare(model: Model, units: Sequence[Unit]) -> Iterator[None]:
    """However the block ends, also by Ctrl-C at any moment, no unit is left in the model, and the
    same parameters are trainable as before.

    units: all that the block may attach. Raises AdapterError if one is attached already.
    """
    before = trainable(model)
    try:
        yield
        leave_bare(model, units, before)
    except BaseException:  # also of a Ctrl-C in the line above
        leave_bare(model, units, before)
        raise


def leave_bare(model: Model, units: Sequence[Unit], before: Sequence[nn.Parameter]) -> None:
    take_out(model)
    for unit in units:
        unit.model = None
    for p in before:
        p.requires_grad_()
