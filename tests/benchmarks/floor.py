"""The floor: the matrix products that one step cannot do without, and nothing else.

For T positions, N of which predict a target token, and K units trained side by side:

    every Linear above the unit    forward, and the gradient of its input     [K·T, in] ↔ [K·T, out]
    attention there                2 products forward, 4 backward, each with T/2 keys: a position sees
                                   half of the others on average
    the head                       forward, and the gradient of its input     [K·N, d] ↔ [K·N, V]

No gradient of a weight is needed, as the base is frozen. All results go into memory that is there
already, so that the floor is not burdened by fresh pages. The unit's own products are left out: r is small.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tinymem.base.model import Linear, Model
from tinymem.data.memory import Memory

SCORES = {"cpu": 1 << 22, "cuda": 1 << 30}  # attention scores at once: heads beyond that take turns


class Products:
    """Matrix products to be done again and again, with what they read and write."""

    def __init__(self, model: Model):
        self.like = {"dtype": model.dtype, "device": model.device}
        self.calls: list[tuple[Callable, Tensor, Tensor, Tensor]] = []
        self.memory: dict[tuple, Tensor] = {}
        self.flops = 0

    def tensor(self, name: str, *shape: int) -> Tensor:
        """A piece of memory; products of one shape share theirs. Small numbers: no product overflows."""
        if (name, shape) not in self.memory:
            self.memory[name, shape] = torch.randn(shape, **self.like) / 10
        return self.memory[name, shape]

    def add(self, a: Tensor, b: Tensor) -> None:
        """a [(H,) m, k] times b [(H,) k, n]."""
        out = self.tensor("out", *a.shape[:-1], b.shape[-1])
        self.calls.append((torch.mm if a.ndim == 2 else torch.bmm, a, b, out))
        self.flops += 2 * out.numel() * a.shape[-1]

    @torch.no_grad()
    def step(self) -> None:
        for product, a, b, out in self.calls:
            product(a, b, out=out)


def floor(model: Model, layer: int, memory: Memory, units: int = 1) -> Products:
    """The products of a step that trains `units` units beside the MLP of `layer`."""
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
        for _ in range(2):  # the result, and the gradient of the queries
            products.add(scores, half)
        for _ in range(2):  # the gradients of keys and values
            products.add(scores.transpose(1, 2), whole)

    heads = units * config.num_heads
    together = min(heads, max(1, SCORES[model.device.type] // (time * time // 2)))
    for block in model.layers[layer + 1 :]:
        for module in block.modules():
            if isinstance(module, Linear):
                linear(units * time, module.weight)
        for start in range(0, heads, together):
            attention(min(together, heads - start))
    linear(units * targets, model.lm_head.weight)
    return products


def gemm_rate(
    model: Model, seconds: Callable[[Callable[[], object]], float], size: int = 8192
) -> float:
    """FLOP a second of one large square product in the model's dtype."""
    a, b, out = (torch.randn(size, size, dtype=model.dtype, device=model.device) for _ in range(3))
    return 2 * size**3 / seconds(lambda: torch.mm(a, b, out=out))
