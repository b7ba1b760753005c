"""LoRAs beside parts of a model: put in and taken out, hundreds of them within a millisecond.

Modules are exchanged in torch's own tables, `_modules`. What torch does beyond that for each module
that is assigned or looked up would take 7 ms for the 210 LoRAs of a model with 30 layers.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from ..errors import AdapterError


class WithLoRA(nn.Module):
    """A part of the model with a LoRA beside it. It has no part while its unit is detached."""

    part: nn.Module
    lora: nn.Module

    def __init__(self, lora: nn.Module):
        super().__init__()
        self.register_module("part", None)
        self.lora = lora

    def forward(self, x: Tensor) -> Tensor:
        out = self.part(x)
        return out + self.lora(x).to(out.dtype)


def put_in(model: nn.Module, places: Mapping[str, WithLoRA]) -> None:
    """Each module that a path names becomes the part of the WithLoRA that takes its place.

    Freezes the model first. Raises AdapterError if a unit is attached.
    """
    for p in trainable(model):
        p.requires_grad_(False)
    for path, place in places.items():
        *parents, name = path.split(".")
        table = model._modules
        for parent in parents:
            table = table[parent]._modules  # type: ignore[union-attr]  # none of them is None
        place._modules["part"], table[name] = table[name], place


def take_out(model: nn.Module) -> None:
    """The parts are again where they were; a second call, as after a Ctrl-C, does no harm."""
    for module in all_modules(model):
        for name, place in module._modules.items():
            if isinstance(place, WithLoRA):
                part = place._modules["part"]  # place.part takes ten times as long
                module._modules[name], place._modules["part"] = part, None


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trainable. Raises AdapterError if a unit is attached."""
    modules = all_modules(model)
    if any(isinstance(module, WithLoRA) for module in modules):
        raise AdapterError("the model has a unit attached already; detach that first")
    every = [p for module in modules for p in module._parameters.values()]
    return [p for p in every if p is not None and p.requires_grad]


def all_modules(model: nn.Module) -> list[nn.Module]:
    found = [model]
    for module in found:  # which grows meanwhile
        found += [part for part in module._modules.values() if part is not None]
    return found
