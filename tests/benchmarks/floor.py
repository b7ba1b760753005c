"""The floor: a lower bound for the time of a step, from its necessary matrix products.

For T positions, of which N predict a target token, and K units trained together, these are

    every Linear above the unit    forward, and the gradient of its input     [K·T, in] ↔ [K·T, out]
    attention above the unit       2 products forward and 4 backward, each with T/2 keys, because a
                                   position attends to half of the positions on average
    the head                       forward, and the gradient of its input     [K·N, d] ↔ [K·N, V]

The base is frozen, so no gradient of a weight is needed. All results are written to memory that is
already allocated, so that the floor does not include the cost of new pages. The products of the
unit are left out, because r is small.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tinymem.base.model import Linear, Model
from tinymem.data.memory import Memory

# The most attention scores that are computed at once. More heads than that are taken in turns.
SCORES = {"cpu": 1 << 22, "cuda": 1 << 30}


class Products:
    """A list of matrix products that can be repeated, with their operands and results."""

    def __init__(self, model: Model):
        self.like = {"dtype": model.dtype, "device": model.device}
        self.calls: list[tuple[Callable, Tensor, Tensor, Tensor]] = []
        self.memory: dict[tuple, Tensor] = {}
        self.flops = 0

    def tensor(self, name: str, *shape: int) -> Tensor:
        """A random tensor; equal names and shapes share one. Small values avoid an overflow."""
        if (name, shape) not in self.memory:
            self.memory[name, shape] = torch.randn(shape, **self.like) / 10
        return self.memory[name, shape]

    def add(self, a: Tensor, b: Tensor) -> None:
        """Adds the product of a [(H,) m, k] and b [(H,) k, n]."""
        out = self.tensor("out", *a.shape[:-1], b.shape[-1])
        self.calls.append((torch.mm if a.ndim == 2 else torch.bmm, a, b, out))
        self.flops += 2 * out.numel() * a.shape[-1]

    @torch.no_grad()
    def step(self) -> None:
        for product, a, b, out in self.calls:
            product(a, b, out=out)


def floor(model: Model, layer: int, memory: Memory, units: int = 1) -> Products:
    """The products of a step that trains this many units beside the MLP of `layer`."""
    products, config = Products(model), model.config
    time, targets = len(memory.prompt_ids) + memory.length - 1, memory.length

    def linear(rows: int, weight: Tensor) -> None:
        products.add(products.tensor("in", rows, weight.shape[1]), weight.t())
        products.add(products.tensor("in", rows, weight.shape[0]), weight)

    def attention(heads: int) -> None:
        whole = products.tensor("q", heads, time, config.head_dim)
        half = products.tensor("k", heads, time // 2, config.head_dim)
        scores = products.tensor("scores", heads, time, time // 2)
        for _ in range(2):  # scores, and their gradient
            products.add(whole, half.transpose(1, 2))
        for _ in range(2):  # the output, and the gradient of the queries
            products.add(scores, half)
        for _ in range(2):  # the gradients of keys and values
            products.add(scores.transpose(1, 2), whole)

    heads = units * config.num_heads
    at_once = min(heads, max(1, SCORES[model.device.type] // (time * time // 2)))
    for block in model.layers[layer + 1 :]:
        for module in block.modules():
            if isinstance(module, Linear):
                linear(units * time, module.weight)
        for start in range(0, heads, at_once):
            attention(min(at_once, heads - start))
    linear(units * targets, model.lm_head.weight)
    return products


def gemm_rate(
    model: Model, seconds: Callable[[Callable[[], object]], float], size: int = 8192
) -> float:
    """FLOP per second of one large square product in the model's dtype."""
    a, b, out = (torch.randn(size, size, dtype=model.dtype, device=model.device) for _ in range(3))
    return 2 * size**3 / seconds(lambda: torch.mm(a, b, out=out))
